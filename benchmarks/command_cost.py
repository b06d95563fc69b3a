"""What a command costs on its way from the executor through log and stream to the client."""

import asyncio
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks.callers import Caller, calling
from benchmarks.processes import Running, running
from runner_service.v1 import agent_runner_pb2 as runner_pb2

OUTPUT_BYTES = 10_000_000


class Took(NamedTuple):
    """Milliseconds per command, and of a call with 10 MB of output."""

    alone: list[float]
    in_a_row: list[float]
    ten_megabytes: list[float]


def measure(rounds: int, times: int = 50) -> dict[str, Took]:
    """Runs both in turns, in one go."""
    with ExitStack() as programs, tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        data = Path(temporary) / "data"
        data.write_bytes((b"x" * 79 + b"\n") * (OUTPUT_BYTES // 80))
        servers = {
            "bare": programs.enter_context(running(["-m", "benchmarks.command_host", "--bare"])),
            "service": programs.enter_context(running(["-m", "benchmarks.command_host"])),
        }
        return asyncio.run(_measure(servers, data, rounds, times))


async def _measure(servers: dict[str, Running], data: Path, rounds: int, times: int) -> dict[str, Took]:
    took = {name: Took([], [], []) for name in servers}
    for _ in range(rounds + 1):
        for name, server in servers.items():
            async with calling(server.address) as caller:
                took[name].alone.append(statistics.median([await _call(caller, "true") for _ in range(times)]))
                took[name].in_a_row.append(await _call(caller, "true", times=times) / times)
                took[name].ten_megabytes.append(
                    statistics.median([await _call(caller, f"cat {data}", output=OUTPUT_BYTES) for _ in range(3)])
                )
    return {name: Took(*(values[1:] for values in each)) for name, each in took.items()}  # the first is for warming up


async def _call(caller: Caller, command: str, *, times: int = 1, output: int = 0) -> float:
    began = time.monotonic()
    received = exits = 0
    async for page in caller.start(json.dumps({"command": command, "times": times})):
        for event in runner_pb2.ExecuteAgentResponse.FromString(page).events:
            received += len(event.tool_output.stdout)
            exits += event.HasField("tool_call_finished") and event.tool_call_finished.exit_code == 0
    elapsed = time.monotonic() - began
    if (received, exits) != (output, times):
        raise RuntimeError(f"{received} bytes of {output} and {exits} good exits of {times} came")
    return elapsed * 1e3


def rate(clients: int, commands: int) -> dict[str, float]:
    """Commands per second for so many clients at once, each of which waits for its last command before the next."""
    kinds = {
        "bare stream": (["--bare"], False),
        "the service, an execution for each": ([], False),
        "the service, an execution for each client": ([], True),
    }
    rates = {}
    for kind, (options, in_a_row) in kinds.items():
        with running(["-m", "benchmarks.command_host", *options]) as server:
            rates[kind] = asyncio.run(_rate(server, clients, commands // clients, in_a_row=in_a_row))
    return rates


async def _rate(server: Running, clients: int, commands: int, *, in_a_row: bool) -> float:
    async with calling(server.address, calls=clients) as caller:

        async def client() -> None:
            for _ in range(1 if in_a_row else commands):
                await _call(caller, "true", times=commands if in_a_row else 1)

        await client()
        began = time.monotonic()
        await asyncio.gather(*(client() for _ in range(clients)))
        return commands * clients / (time.monotonic() - began)
