"""Callers are recognised by tokens, certificates and sockets, and lose their streams when the file drops them."""

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.wrappers_pb2 import StringValue
from tests.callers.files import SEVERAL_TENANTS, CallersYaml, acting_for, bearer, certificate_listeners
from tests.callers.issuing import issuing
from tests.probe import SERVICE, failure_of, serving

from runner_service.identity import current_caller


async def who(request: StringValue, context: Any) -> StringValue:
    caller = current_caller.get()
    return StringValue(value=f"{caller.name} of {caller.home_tenant} for {caller.tenant}")


async def endless(request: StringValue, context: Any) -> None:
    await context.write(request)
    await asyncio.Event().wait()


async def flooding(request: StringValue, context: Any) -> None:
    while True:
        await context.write(StringValue(value="x" * 100_000))


async def answer(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> str:
    method: Any = channel.unary_unary(f"/{SERVICE}/Call", response_deserializer=StringValue.FromString)
    try:
        return str((await method(b"", metadata=metadata, timeout=20)).value)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"


async def test_a_token_names_its_caller_and_nobody_is_anonymous(callers: CallersYaml) -> None:
    token = callers.add("ci", "acme", acts_for=["globex"])
    operator = "an-operators-own-token"
    async with serving(unary=who, CALLERS_FILE=str(callers.path), AUTH_TOKEN=operator) as probe:
        channel = probe.channel
        assert await answer(channel, *bearer(token)) == "ci of acme for acme"
        assert await answer(channel, *bearer(token), *acting_for("globex")) == "ci of acme for globex"
        assert await answer(channel, *bearer(token), *acting_for("acme")) == "ci of acme for acme"
        assert await answer(channel, *bearer(operator)) == "operator of default for default"
        assert await answer(channel, *bearer(operator), *acting_for("any")) == "operator of default for any"
        denied = "PERMISSION_DENIED: ci may not act for the tenant default"
        assert await answer(channel, *bearer(token), *acting_for("default")) == denied
        assert await answer(channel) == "UNAUTHENTICATED: no token: send the metadata `authorization: Bearer <token>`"
        assert await answer(channel, *bearer("nobodys")) == "UNAUTHENTICATED: wrong token"
        mistyped = token.token[:-1] + ("0" if token.token[-1] != "0" else "1")
        assert await answer(channel, *bearer(mistyped)) == "UNAUTHENTICATED: wrong token: it was mistyped or cut"


async def test_several_tokens_are_one_caller_and_an_expired_one_is_told(callers: CallersYaml) -> None:
    first, other = callers.add("ci"), callers.add("old")
    entry = callers.caller("ci")
    entry["tokens"].append(callers.caller("old")["tokens"][0] | {"expires": "2020-01-01T00:00:00Z"})
    callers.remove("old")
    async with serving(unary=who, CALLERS_FILE=str(callers.path)) as probe:
        assert await answer(probe.channel, *bearer(first)) == "ci of default for default"
        expired = await answer(probe.channel, *bearer(other))
        assert expired == f"UNAUTHENTICATED: the token {other.id} of ci has expired"


async def test_a_stream_ends_when_its_caller_leaves_the_file_though_it_is_stalled_and_others_go_on(
    callers: CallersYaml,
) -> None:
    leaving, staying = callers.add("leaving"), callers.add("staying")
    async with (
        serving(stream=flooding, CALLERS_FILE=str(callers.path)) as probe,
        serving(stream=endless, CALLERS_FILE=str(callers.path)) as other,
    ):
        stalled = probe.watch("x", metadata=bearer(leaving))
        await stalled.read()
        open_calls = [other.watch("x", metadata=bearer(leaving)) for _ in range(300)]
        for call in open_calls:
            await call.read()
        kept = other.watch("x", metadata=bearer(staying))
        await kept.read()
        callers.remove("leaving")
        async with asyncio.timeout(60):
            for call in open_calls:
                assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "leaving may no longer make this call: wrong token" in (await open_calls[0].details() or "")
        assert (await failure_of(_read_on(stalled))).code() is grpc.StatusCode.UNAUTHENTICATED
        assert not kept.done()
        kept.cancel()


async def test_a_stream_ends_when_its_token_expires(callers: CallersYaml) -> None:
    token = callers.add("ci")
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    callers.caller("ci")["tokens"][0]["expires"] = soon.isoformat()
    callers.write()
    async with serving(stream=endless, CALLERS_FILE=str(callers.path)) as probe:
        error = await failure_of(_last(probe.watch("x", metadata=bearer(token))))
        assert (error.code(), error.details()) == (
            grpc.StatusCode.UNAUTHENTICATED,
            f"the token {token.id} of ci has expired",
        )


async def _read_on(call: Any) -> None:
    async with asyncio.timeout(60):
        while await call.read() is not grpc.aio.EOF:
            pass


async def _last(call: Any) -> None:
    async with asyncio.timeout(60):
        async for _ in call:
            pass


async def test_a_file_that_becomes_wrong_or_goes_leaves_the_earlier_one_in_force_until_it_is_right(
    callers: CallersYaml, caplog: pytest.LogCaptureFixture
) -> None:
    token = callers.add("ci")
    async with serving(unary=who, CALLERS_FILE=str(callers.path)) as probe:
        for spoil in (lambda: callers.path.write_text("callers: ["), callers.path.unlink):
            caplog.clear()
            spoil()
            async with asyncio.timeout(60):
                while "callers_file_unusable" not in caplog.text:
                    await asyncio.sleep(0.05)
            assert await answer(probe.channel, *bearer(token)) == "ci of default for default"
        added = callers.add("next")
        async with asyncio.timeout(60):
            while await answer(probe.channel, *bearer(added)) != "next of default for default":
                await asyncio.sleep(0.05)


async def test_a_symlink_that_is_swapped_is_seen(callers: CallersYaml, tmp_path: Path) -> None:
    token = callers.add("ci")
    link = tmp_path / "link"
    link.symlink_to(callers.path)
    async with serving(unary=who, CALLERS_FILE=str(link)) as probe:
        assert await answer(probe.channel, *bearer(token)) == "ci of default for default"
        other = CallersYaml(tmp_path / "other.yaml")
        added = other.add("swapped")
        (tmp_path / "next").symlink_to(other.path)
        (tmp_path / "next").replace(link)
        async with asyncio.timeout(60):
            while await answer(probe.channel, *bearer(added)) != "swapped of default for default":
                await asyncio.sleep(0.05)
        assert (await answer(probe.channel, *bearer(token))).startswith("UNAUTHENTICATED")


async def test_whoever_opens_a_socket_is_its_caller(callers: CallersYaml, tmp_path: Path) -> None:
    path = tmp_path / "sockets" / "operator.sock"
    entry = {"path": str(path), "name": "local", "tenant": "acme", "roles": ["operate"], "mode": "0660"}
    callers.content["sockets"] = [entry]
    callers.add("ci")
    async with serving(unary=who, CALLERS_FILE=str(callers.path)) as probe:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert await answer(channel) == "local of acme for acme"
            assert await answer(channel, *bearer("anything")) == "local of acme for acme"
            callers.content["sockets"] = []
            callers.write()
            async with asyncio.timeout(60):
                while not (await answer(channel)).startswith("UNAUTHENTICATED"):
                    await asyncio.sleep(0.05)
        assert (await answer(probe.channel)).startswith("UNAUTHENTICATED: no token")


def _trusting(authority: trustme.CA, own: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
    root = authority.cert_pem.bytes()
    if own is None:
        return grpc.ssl_channel_credentials(root)
    return grpc.ssl_channel_credentials(root, own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())


async def test_certificates_and_tokens_have_addresses_of_their_own(callers: CallersYaml, tmp_path: Path) -> None:
    authority = trustme.CA()
    token = callers.add("ci")
    entry = {"name": "worker", "tenant": "acme", "roles": ["run"], "certificates": ["dns:worker.example"]}
    callers.content["callers"].append(entry)
    callers.write()
    environ: dict[str, Any] = {
        **certificate_listeners(tmp_path, authority),
        "CALLERS_FILE": str(callers.path),
    }
    worker, stranger = authority.issue_cert("worker.example"), authority.issue_cert("other.example")
    async with serving(unary=who, credentials=_trusting(authority), **environ) as probe:
        tokens, certificates = probe.server.listen_addresses
        for own, address, metadata, expected in (
            (None, tokens, bearer(token), "ci of default for default"),
            (worker, tokens, (), "UNAUTHENTICATED: no token: send"),
            (worker, certificates, (), "worker of acme for acme"),
            (worker, certificates, bearer(token), "ci of default for default"),
            (worker, certificates, bearer("wrong"), "UNAUTHENTICATED: wrong token"),
            (stranger, certificates, (), "UNAUTHENTICATED: the client certificate names no caller"),
            (None, certificates, bearer(token), "UNAVAILABLE"),
        ):
            async with grpc.aio.secure_channel(address, _trusting(authority, own)) as channel:
                assert (await answer(channel, *metadata)).startswith(expected)


async def test_a_rule_may_demand_a_token_and_a_certificate_together(callers: CallersYaml, tmp_path: Path) -> None:
    authority = trustme.CA()
    token = callers.add("ci", with_certificates=["dns:ci.example", "dns:next.ci.example"])
    async with issuing() as issuer:
        entry = issuer.entry()
        entry["rules"][0]["with_certificates"] = ["dns:robot.example"]
        callers.content["issuers"] = [entry]
        callers.write()
        environ: dict[str, Any] = {
            **certificate_listeners(tmp_path, authority),
            "CALLERS_FILE": str(callers.path),
            **SEVERAL_TENANTS,
        }
        ci, robot = authority.issue_cert("ci.example"), authority.issue_cert("robot.example")
        by_other_name = authority.issue_cert("other.example", "next.ci.example")
        signed = issuer.token()
        async with serving(unary=who, stream=endless, credentials=_trusting(authority), **environ) as probe:
            tokens, certificates = probe.server.listen_addresses
            for own, address, sent, expected in (
                (ci, certificates, token, "ci of default for default"),
                (by_other_name, certificates, token, "ci of default for default"),
                (
                    robot,
                    certificates,
                    token,
                    "UNAUTHENTICATED: the token of ci counts only with",
                ),
                (ci, certificates, None, "UNAUTHENTICATED: the client certificate names no caller"),
                (ci, tokens, token, "UNAUTHENTICATED: the token of ci counts only with"),
                (robot, certificates, signed, "robot of acme for acme"),
                (ci, certificates, signed, "UNAUTHENTICATED: the token of robot counts only with"),
                (robot, tokens, signed, "UNAUTHENTICATED: the token of robot counts only with"),
            ):
                async with grpc.aio.secure_channel(address, _trusting(authority, own)) as channel:
                    assert (await answer(channel, *(bearer(sent) if sent else ()))).startswith(expected)
            async with grpc.aio.secure_channel(certificates, _trusting(authority, ci)) as channel:
                method: Any = channel.unary_stream(f"/{SERVICE}/Watch", response_deserializer=StringValue.FromString)
                call = method(b"", metadata=bearer(token))
                await call.read()
                callers.caller("ci")["with_certificates"] = ["dns:next.example"]
                callers.write()
                async with asyncio.timeout(60):
                    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_ends_when_the_authority_of_its_certificate_is_taken_away(
    callers: CallersYaml, tmp_path: Path
) -> None:
    authority, next_authority = trustme.CA(), trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1", "::1")
    (tmp_path / "cert.pem").write_bytes(b"".join(each.bytes() for each in server.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(server.private_key_pem.bytes())
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes() + next_authority.cert_pem.bytes())
    for name in ("old", "new"):
        entry = {"name": name, "tenant": "acme", "roles": ["run"], "certificates": [f"dns:{name}.example"]}
        callers.content["callers"].append(entry)
    callers.write()
    environ: dict[str, Any] = {
        "TLS_CERT_FILE": str(tmp_path / "cert.pem"),
        "TLS_KEY_FILE": str(tmp_path / "key.pem"),
        "TLS_CLIENT_CA_FILE": str(tmp_path / "ca.pem"),
        "CALLERS_FILE": str(callers.path),
    }
    old, new = authority.issue_cert("old.example"), next_authority.issue_cert("new.example")
    async with (
        serving(stream=endless, unary=who, credentials=_trusting(authority, old), **environ) as probe,
        grpc.aio.secure_channel(probe.server.address, _trusting(authority, new)) as channel,
    ):
        call = probe.watch("x")
        await call.read()
        assert await answer(channel) == "new of acme for acme"
        (tmp_path / "ca.pem").write_bytes(next_authority.cert_pem.bytes())
        async with asyncio.timeout(60):
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "the authority of the client certificate is no longer trusted" in (await call.details() or "")
        assert (await answer(probe.channel)).startswith("UNAUTHENTICATED")  # on the connection of before
        assert await answer(channel) == "new of acme for acme"
