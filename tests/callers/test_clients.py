"""Clients send a token that is read anew for each call, and present certificates."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import trustme
from tests.callers.files import CallersYaml
from tests.cli.command_line import CommandLine
from tests.running import StartService, command, turn

from runner_service.client import RunnerClient, token_from_file
from runner_service.v1 import agent_runner_pb2 as runner_pb2

WAITS = [turn("", command("while [ ! -e go ]; do sleep 0.02; done")), turn("done")]


async def test_a_stream_whose_token_is_replaced_goes_on_with_the_next_one_and_loses_nothing(
    start: StartService, callers: CallersYaml, tmp_path: Path
) -> None:
    first, second = callers.add("ci"), callers.add("other")
    entry = callers.caller("ci")
    entry["tokens"] += callers.caller("other")["tokens"]
    callers.remove("other")
    file = tmp_path / "token"
    file.write_text(f"{first.token}\n")
    client = await start(WAITS, CALLERS_FILE=str(callers.path))
    errors: list[str] = []

    async def renew(error: grpc.aio.AioRpcError) -> None:
        errors.append(error.details() or "")
        file.write_text(second.token)
        (tmp_path / "workspace" / "go").touch()

    events = []
    async with (
        asyncio.timeout(40),
        RunnerClient(client.service.address, token=token_from_file(file), on_disconnect=renew) as caller,
    ):
        request = client.request(execution_id="one", disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH)
        async for event in caller.execute(request):
            events.append(event)
            if event.HasField("started"):
                del entry["tokens"][0]
                callers.write()
        assert (await caller.who_am_i()).caller.name == "ci"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert errors == ["ci may no longer make this call: wrong token"]


async def test_a_fixed_token_that_expires_is_told(start: StartService, callers: CallersYaml) -> None:
    token = callers.add("ci")
    callers.caller("ci")["tokens"][0]["expires"] = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    callers.write()
    client = await start(WAITS, CALLERS_FILE=str(callers.path))
    async with RunnerClient(client.service.address, token=token.token) as caller:
        with pytest.raises(grpc.aio.AioRpcError, match="has expired"):
            async with asyncio.timeout(30):
                _ = [event async for event in caller.execute(client.request(execution_id="one"))]


async def test_the_command_line_presents_a_certificate_and_names_a_tenant(
    start: StartService, callers: CallersYaml, tmp_path: Path
) -> None:
    authority = trustme.CA()
    server, own = authority.issue_cert("localhost", "127.0.0.1", "::1"), authority.issue_cert("ops.example")
    for name, part in (
        ("cert", server.cert_chain_pems[0]),
        ("own", own.cert_chain_pems[0]),
        ("ca", authority.cert_pem),
    ):
        part.write_to_path(str(tmp_path / f"{name}.pem"))
    for name, key in (("key", server.private_key_pem), ("own-key", own.private_key_pem)):
        key.write_to_path(str(tmp_path / f"{name}.pem"))
        (tmp_path / f"{name}.pem").chmod(0o600)
    entry = {"name": "ops", "tenant": "acme", "roles": ["operate"], "certificates": ["dns:ops.example"]}
    callers.content["callers"].append(entry)
    callers.write()
    client = await start(
        [turn("done")],
        CALLERS_FILE=str(callers.path),
        TLS_CERT_FILE=str(tmp_path / "cert.pem"),
        TLS_KEY_FILE=str(tmp_path / "key.pem"),
        TLS_CLIENT_CA_FILE=str(tmp_path / "ca.pem"),
    )
    shell = CommandLine(tmp_path, {"STATE_DIR": str(tmp_path / "other")})
    flags = [
        "--server",
        client.service.address,
        "--ca-file",
        "ca.pem",
        "--cert-file",
        "own.pem",
        "--key-file",
        "own-key.pem",
    ]
    ran = await asyncio.to_thread(shell, "run", *flags, "--tenant", "globex", "--id", "one", "--quiet", "hello")
    assert ran.returncode == 0, ran.stderr
    assert "one" in (await asyncio.to_thread(shell, "ps", *flags, "--tenant", "globex", "--all")).stdout
    assert "one" not in (await asyncio.to_thread(shell, "ps", *flags, "--all")).stdout
    alone = await asyncio.to_thread(shell, "ps", *flags[:-2])
    assert "--cert-file and --key-file are only given together" in alone.stderr
