"""What a cell costs: a command in it, opening it, closing it, many at once, memory."""

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from runner_service.executors.confinement import Confinement
from runner_service.executors.local.executor import LocalExecutor, local_executor
from runner_service.executors.protocol import Command, Sandbox, SandboxSpec, Stream

FREE, CELL = Confinement(), Confinement(files="workspace")
_MODEL_CALL_SECONDS = 0.5


class Dropped:
    async def write(self, stream: Stream, data: bytes) -> None:
        """Drops it."""


async def milliseconds(sandbox: Sandbox, text: str = "true") -> float:
    began = time.perf_counter()
    result = await sandbox.run(Command(text, 60, Dropped()))
    assert result.exit_code == 0, result
    return (time.perf_counter() - began) * 1e3


class Round(NamedTuple):
    """Milliseconds, without and in a cell."""

    commands: list[tuple[float, float]]
    """Of `true`, in turns: others use the machine too."""
    first: tuple[float, float]
    """Until a first command has run, from before the sandbox is opened."""
    later: tuple[float, float]
    """Of a first command that comes half a second after the opening has begun, as after a model call."""
    closing: tuple[float, float]


class Crowd(NamedTuple):
    """Many cells, opened at once."""

    seconds: float
    """Until a command has run in each."""
    mebibytes: float
    """Of each."""


async def one_round(executor: LocalExecutor, times: int) -> Round:
    async with (
        executor.open(SandboxSpec("free")) as free,
        executor.open(SandboxSpec("cell", confinement=CELL)) as cell,
    ):
        await milliseconds(cell)
        commands = [(await milliseconds(free), await milliseconds(cell)) for _ in range(times)]
    free_first, free_closing = await opened(executor, FREE, 0)
    cell_first, cell_closing = await opened(executor, CELL, 0)
    free_later, _ = await opened(executor, FREE, _MODEL_CALL_SECONDS)
    cell_later, _ = await opened(executor, CELL, _MODEL_CALL_SECONDS)
    return Round(commands, (free_first, cell_first), (free_later, cell_later), (free_closing, cell_closing))


async def opened(executor: LocalExecutor, level: Confinement, pause: float) -> tuple[float, float]:
    """Returns milliseconds until a first command has run, without the pause before it, and of closing."""
    began = time.perf_counter()
    async with executor.open(SandboxSpec("opened", confinement=level)) as sandbox:
        if pause:
            await asyncio.sleep(pause)
            began = time.perf_counter()
        await milliseconds(sandbox)
        first = (time.perf_counter() - began) * 1e3
        began = time.perf_counter()
    return first, (time.perf_counter() - began) * 1e3


def kibibytes(marker: str) -> int:
    """Returns the proportional memory of the processes that hold `marker` in their command line."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (process / "cmdline").read_bytes():
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except OSError:
            continue
    return total


async def crowd(executor: LocalExecutor, count: int) -> Crowd:
    async with AsyncExitStack() as parts:
        began = time.perf_counter()
        sandboxes = [
            await parts.enter_async_context(executor.open(SandboxSpec(f"c{number}", confinement=CELL)))
            for number in range(count)
        ]
        await asyncio.gather(*(milliseconds(sandbox) for sandbox in sandboxes))
        seconds = time.perf_counter() - began
        return Crowd(seconds, await asyncio.to_thread(kibibytes, "main_in_cell") / 1024 / count)


async def measure(rounds: int, *, times: int, cells: int) -> tuple[list[Round], list[Crowd]]:
    """Measures with an executor whose own proof that cells hold is done."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as directory:
        base = Path(directory)
        async with local_executor(root=base / "root", state_dir=base / "state") as executor:
            await executor.confinement_for(CELL)
            found = [await one_round(executor, times) for _ in range(rounds)]
            return found, [await crowd(executor, cells) for _ in range(rounds)]
