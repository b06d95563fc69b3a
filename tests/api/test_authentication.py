"""Who sends the token may call; anybody may ask for health."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.probe import failure_of, serving

from runner_service.api.auth import TokenFile, authentication
from runner_service.errors import UnauthenticatedError
from runner_service.settings import Settings

TOKEN = "s3cret-t0ken"


Metadata = tuple[tuple[str, str], ...]


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def reflected(channel: Any, metadata: Metadata) -> Any:
    method: Any = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    return method(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), metadata=metadata)


async def test_the_token_opens_both_kinds_of_calls_and_its_scheme_may_be_in_any_case() -> None:
    async with serving(AUTH_TOKEN=TOKEN) as probe:
        assert [answer.value async for answer in probe.watch("1", metadata=bearer(TOKEN))] == ["0"]
        assert await probe.call(metadata=(("authorization", f"bearer {TOKEN}"),)) is not None


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer("wrong"),
        bearer(TOKEN + "x"),
        bearer(""),
        (("authorization", TOKEN),),
        (("authorization", "Basic eDp5"),),
    ],
)
async def test_without_the_token_nothing_but_health_answers(metadata: Metadata) -> None:
    async with serving(AUTH_TOKEN=TOKEN) as probe:
        for call in (probe.call(metadata=metadata), probe.watch(metadata=metadata)):
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
            assert TOKEN not in (await call.details() or "")
        error = await failure_of(reflected(probe.channel, metadata))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        answer = await probe.health.Check(health_pb2.HealthCheckRequest(), metadata=metadata)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_bytes_that_are_no_ascii_are_a_wrong_token_like_any_other() -> None:
    check = authentication(Settings.from_environment({"AUTH_TOKEN": TOKEN})).caller
    with pytest.raises(UnauthenticatedError):
        check([("authorization", "Bearer tökén")])
    with pytest.raises(UnauthenticatedError):
        check([("authorization", b"Bearer " + TOKEN.encode())])


async def test_a_new_token_in_the_file_replaces_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    async with serving(AUTH_TOKEN_FILE=str(file)) as probe:
        assert await probe.call(metadata=bearer(TOKEN)).code() is grpc.StatusCode.OK
        (tmp_path / "next").write_text("another-token")
        (tmp_path / "next").replace(file)
        async with asyncio.timeout(60):
            while await probe.call(metadata=bearer("another-token")).code() is not grpc.StatusCode.OK:
                await asyncio.sleep(0.05)
        assert await probe.call(metadata=bearer(TOKEN)).code() is grpc.StatusCode.UNAUTHENTICATED


async def endless(request: Any, context: Any) -> None:
    await context.write(request)
    await asyncio.Event().wait()


async def test_a_stream_ends_when_its_token_is_replaced_and_goes_on_with_the_next_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    async with serving(stream=endless, AUTH_TOKEN_FILE=str(file)) as probe:
        call = probe.watch("x", metadata=bearer(TOKEN))
        await call.read()
        file.write_text("another-token")
        async with asyncio.timeout(60):
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "operator may no longer make this call: wrong token" in (await call.details() or "")
        again = probe.watch("x", metadata=bearer("another-token"))
        assert await again.read() is not grpc.aio.EOF
        again.cancel()


@pytest.mark.parametrize("loss", ["", "gone"])
def test_a_token_file_that_is_emptied_or_lost_leaves_the_token_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, loss: str
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    token = TokenFile(file)
    if loss:
        file.unlink()
    else:
        file.write_text("")
    token._checked_at -= 2  # as if the second since the last look had passed
    assert token() == TOKEN.encode()
    assert "token_file" in caplog.text
