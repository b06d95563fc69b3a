"""What is used of the Daytona SDK, httpx, mcp, redis-py and grpc."""

import inspect
import subprocess
import sys
from collections.abc import AsyncIterator

import grpc
import httpcore
import httpx
import pytest
from daytona import AsyncDaytona, DaytonaConfig
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # has no types
from grpc_status import rpc_status
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from redis.crc import key_slot


async def test_the_daytona_sdk_traces_by_one_method_and_keeps_its_target_in_one_attribute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAYTONA_OTEL_ENABLED", "true")
    begun: list[str] = []

    class Watched(AsyncDaytona):
        def _init_otel(self, sdk_version: str) -> None:
            begun.append(sdk_version)

    client = Watched(DaytonaConfig(api_key="k", api_url="http://127.0.0.1:9", target="somewhere"))
    try:
        assert len(begun) == 1, "the SDK begins to trace elsewhere: see QuietDaytona"
        assert client._target == "somewhere", "the SDK keeps its target elsewhere: see `sdk._client`"
    finally:
        await client.close()  # type: ignore[no-untyped-call]  # the SDK has not typed it


def test_httpx_has_a_pool_of_httpcore_that_a_transport_can_replace() -> None:
    assert isinstance(httpx.AsyncHTTPTransport()._pool, httpcore.AsyncConnectionPool)


async def test_httpx_reads_a_body_that_a_hook_has_replaced() -> None:
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"replaced"

    async def replace(response: httpx.Response) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = Body()

    async def original() -> AsyncIterator[bytes]:
        yield b"original"

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=original()))
    async with (
        httpx.AsyncClient(transport=transport, event_hooks={"response": [replace]}) as client,
        client.stream("GET", "http://server/") as response,
    ):
        assert await response.aread() == b"replaced"


def test_mcps_transport_takes_a_client_of_ours() -> None:
    assert "http_client" in inspect.signature(streamable_http_client).parameters


def test_mcps_session_checks_results_by_one_method() -> None:
    assert "self._validate_tool_result(" in inspect.getsource(ClientSession.call_tool), "see `_Session`"
    assert inspect.iscoroutinefunction(ClientSession._validate_tool_result)


def test_redis_py_computes_the_slot_of_a_key_as_redis_specifies_it() -> None:
    assert key_slot(b"123456789") == 0x31C3
    assert key_slot(b"rs1:{e}:v") == key_slot(b"e") != key_slot(b"f")


def test_grpc_status_encodes_details_and_reads_them_from_asynchronous_errors() -> None:
    status = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="later")
    packed = AnyMessage()
    packed.Pack(error_details_pb2.ErrorInfo(reason="R"))
    status.details.append(packed)

    sent = rpc_status.to_status(status)
    assert sent.code == grpc.StatusCode.UNAVAILABLE
    error = grpc.aio.AioRpcError(
        sent.code, grpc.aio.Metadata(), grpc.aio.Metadata(*sent.trailing_metadata), details=sent.details
    )
    assert rpc_status.from_call(error) == status  # type: ignore[arg-type]  # as the client calls it


def test_httpx_does_without_its_command_line_and_nothing_else_of_the_agent_loop_draws() -> None:
    code = (
        "import sys\n"
        "from runner_service.agent.loader import load\n"
        "load()\n"
        "import httpx\n"
        "assert callable(httpx.main) and 'httpx._main' not in sys.modules\n"
        "print(sorted({'rich', 'pygments'} & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
