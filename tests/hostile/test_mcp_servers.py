"""MCP servers that want the service's time, memory and log."""

import sys
from pathlib import Path

import pytest
from tests.agent.http_mcp import answering, silent_about
from tests.hostile import mcp_server
from tests.hostile.conftest import Attack
from tests.running import Event, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2

pytestmark = pytest.mark.long

SERVER = str(Path(mcp_server.__file__))
STDIO = (
    "pattern", "pattern of names", "objects", "numbers", "contents", "depth", "endless lines", "endless blank lines",
    "endless notes", "endless progress", "endless requests", "answers to nobody", "one endless line", "tools",
)  # fmt: skip
EVENTS = (b"content-type", b"text/event-stream")
JSON = (b"content-type", b"application/json")
HEAD, TAIL = b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[],"structuredContent":{"a":[', b"{}]}}}"
EMPTY = [b"{}," * 30_000] * 60
HTTP = {
    "objects": ([HEAD, *EMPTY, TAIL], JSON),
    "objects in an event": ([b"data: ", HEAD, *EMPTY, TAIL, b"\n\n"], EVENTS),
    "events that are no messages": ([b"data: {}\n\n" * 10_000] * 1000, EVENTS),
    "events of other kinds": ([b"event: x\ndata: {}\n\n" * 10_000] * 200, EVENTS),
    "notes": ([b"data: " + mcp_server.NOTE.strip() + b"\n\n"] * 100_000, EVENTS),
}
SILENCE = ("initialize", "tools/list", "tools/call")


def agent(**transport: object) -> dict[str, object]:
    server = runner_pb2.McpServer(name="hostile", **transport)  # type: ignore[arg-type]  # stdio or http
    return {"agent": runner_pb2.Agent(name="tester", instructions="Do it.", mcp_servers=[server])}


@pytest.mark.parametrize("kind", STDIO)
async def test_a_server_keeps_nobody_waiting(attack: Attack, kind: str) -> None:
    fields = agent(stdio=runner_pb2.StdioServer(command=sys.executable, args=[SERVER, kind]))
    async with attack([turn("", ("evil", {}))], fields=fields) as target:
        await target.answers()
        await target.cancel()


@pytest.mark.parametrize("kind", HTTP)
async def test_a_server_over_http_keeps_nobody_waiting(attack: Attack, unused_tcp_port: int, kind: str) -> None:
    body, header = HTTP[kind]
    async with answering(unused_tcp_port, body, header) as url:
        fields = agent(http=runner_pb2.HttpServer(url=f"{url}/mcp"))
        async with attack([turn("", ("answer", {}))], fields=fields) as target:
            await target.answers()
            await target.cancel()


def attack_is_on(event: Event) -> int:
    """Counts two for the start: without an answer to `initialize` or `tools/list` no tool is called for 30 s."""
    return 2 * event.HasField("started")


@pytest.mark.parametrize("method", SILENCE)
async def test_a_server_that_never_answers_keeps_nobody_waiting(attack: Attack, method: str) -> None:
    stdio = runner_pb2.StdioServer(command=sys.executable, args=[SERVER, f"silence about {method}"])
    began = {"until": attack_is_on} if method != "tools/call" else {}
    async with attack([turn("", ("evil", {}))], fields=agent(stdio=stdio), **began) as target:
        await target.answers()
        await target.cancel()


@pytest.mark.parametrize("method", SILENCE)
async def test_a_server_over_http_that_never_answers_keeps_nobody_waiting(
    attack: Attack, unused_tcp_port: int, method: str
) -> None:
    began = {"until": attack_is_on} if method != "tools/call" else {}
    async with silent_about(unused_tcp_port, method) as url:
        fields = agent(http=runner_pb2.HttpServer(url=f"{url}/mcp"))
        async with attack([turn("", ("answer", {}))], fields=fields, **began) as target:
            await target.answers()
            await target.cancel()
