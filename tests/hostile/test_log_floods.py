"""Log lines per cause are limited, whoever causes them.

Those of refused calls were seen to fail. The others cannot, as long as nothing is logged for each bad line, connection,
call or exit code.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from tests.hostile import mcp_server
from tests.running import ServiceProcess, StartProcess, Turns, command, turn
from tests.scraping import metrics_url

from runner_service.v1 import agent_runner_pb2 as runner_pb2

pytestmark = pytest.mark.long

MAX_LINES = 550  # of refused calls 200 are written every 10 s, which a thousand may take twice
FLOOD = 1000
TURNS = [turn("", *[("evil", {})] * 200) for _ in range(3)] + [turn("Done.")]
COMMANDS = [turn("", *[command("exit 3")] * 100) for _ in range(8)] + [turn("Done.")]


async def many(call: Callable[[], Awaitable[object]]) -> None:
    limit = asyncio.Semaphore(20)

    async def one() -> None:
        async with limit:
            with suppress(grpc.aio.AioRpcError, OSError):
                await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(FLOOD):
            group.create_task(one())


async def with_server(service: ServiceProcess, kind: str) -> None:
    stdio = runner_pb2.StdioServer(command=sys.executable, args=[str(Path(mcp_server.__file__)), kind])
    servers = [runner_pb2.McpServer(name="hostile", stdio=stdio)]
    await service.client.execute(agent=runner_pb2.Agent(name="tester", instructions="Do it.", mcp_servers=servers))


async def sent(address: str, data: bytes) -> None:
    host, _, port = address.removeprefix("http://").partition("/")[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        writer.write_eof()
        await reader.read()
    finally:
        writer.close()


async def bad_lines(service: ServiceProcess, _: Path) -> None:
    await with_server(service, "endless lines")


async def failing_calls(service: ServiceProcess, _: Path) -> None:
    await with_server(service, "no answers")


async def failing_commands(service: ServiceProcess, _: Path) -> None:
    await service.client.execute()


async def wrong_tokens(service: ServiceProcess, _: Path) -> None:
    wrong = (("authorization", "Bearer wrong-wrong-wrong"),)
    await many(lambda: service.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id="a"), metadata=wrong))


async def odd_requests(service: ServiceProcess, _: Path) -> None:
    await many(lambda: service.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id="\x01" * 100)))


async def bytes_that_are_no_http(service: ServiceProcess, _: Path) -> None:
    await many(lambda: sent(service.address, b"\x16\x03\x01" + b"x" * 1000))


async def requests_of_pages_that_are_not_there(service: ServiceProcess, tmp_path: Path) -> None:
    url = await asyncio.to_thread(metrics_url, tmp_path / "state")
    await many(lambda: sent(url, b"POST /x\x00 HTTP/9\r\n: \r\n\r\n"))


Flood = Callable[[ServiceProcess, Path], Awaitable[None]]
FLOODS: dict[Flood, Turns] = {
    bad_lines: TURNS,
    failing_calls: TURNS,
    failing_commands: COMMANDS,
    wrong_tokens: [],
    odd_requests: [],
    bytes_that_are_no_http: [],
    requests_of_pages_that_are_not_there: [],
}


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
async def test_a_flood_fills_no_log(start_process: StartProcess, tmp_path: Path, flood: Flood) -> None:
    service = await start_process(FLOODS[flood], STDERR="yes", METRICS_ADDRESS="127.0.0.1:0")
    assert service.process.stderr
    reading = asyncio.create_task(service.process.stderr.read())
    await flood(service, tmp_path)
    service.process.send_signal(signal.SIGTERM)
    log = await reading
    assert await service.ended() == 0
    assert log.count(b"\n") < MAX_LINES, log[-3000:]
