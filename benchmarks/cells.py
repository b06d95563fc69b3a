"""What a cell costs: opening it, a command in it, memory, many at once. Usage: python -m benchmarks.cells."""

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from runner_service.executors.confinement import Confinement
from runner_service.executors.local.executor import LocalExecutor, local_executor
from runner_service.executors.protocol import Command, Sandbox, SandboxSpec, Stream

FREE, CELL = Confinement(), Confinement(files="workspace")


class Dropped:
    async def write(self, stream: Stream, data: bytes) -> None:
        """Drops it."""


async def milliseconds(sandbox: Sandbox, text: str = "true") -> float:
    began = time.perf_counter()
    result = await sandbox.run(Command(text, 60, Dropped()))
    assert result.exit_code == 0, result
    return (time.perf_counter() - began) * 1e3


async def compare(executor: LocalExecutor, times: int) -> tuple[float, float]:
    """Returns milliseconds of a command without and in a cell, which take turns: others use the machine too."""
    async with (
        executor.open(SandboxSpec("free")) as free,
        executor.open(SandboxSpec("cell", confinement=CELL)) as cell,
    ):
        pairs = [(await milliseconds(free), await milliseconds(cell)) for _ in range(times)]
    return statistics.median(each[0] for each in pairs), statistics.median(each[1] for each in pairs)


async def measure(executor: LocalExecutor, level: Confinement) -> tuple[float, float]:
    """Returns milliseconds: until a first command has run, and of closing."""
    first, closing = [], []
    for number in range(5):
        began = time.perf_counter()
        async with executor.open(SandboxSpec(f"e{number}", confinement=level)) as sandbox:
            await milliseconds(sandbox)
            first.append((time.perf_counter() - began) * 1e3)
            began = time.perf_counter()
        closing.append((time.perf_counter() - began) * 1e3)
    return statistics.median(first), statistics.median(closing)


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


async def crowd(executor: LocalExecutor, count: int) -> tuple[float, float]:
    """Opens cells at once; returns seconds until a command has run in each, and MiB for each."""
    async with AsyncExitStack() as parts:
        began = time.perf_counter()
        sandboxes = [
            await parts.enter_async_context(executor.open(SandboxSpec(f"c{number}", confinement=CELL)))
            for number in range(count)
        ]
        await asyncio.gather(*(milliseconds(sandbox) for sandbox in sandboxes))
        seconds = time.perf_counter() - began
        return seconds, await asyncio.to_thread(kibibytes, "main_in_cell") / 1024 / count


async def run(cells: int, times: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as directory:
        base = Path(directory)
        async with local_executor(root=base / "root", state_dir=base / "state") as executor:
            await executor.confinement_for(CELL)
            free, cell = await compare(executor, times)
            print(f"`true`: {free:.2f} ms without, {cell:.2f} ms in a cell ({cell / free:.2f} times)")
            for name, level in (("without", FREE), ("in a cell", CELL)):
                first, closing = await measure(executor, level)
                print(f"{name}: opening and a first command {first:.0f} ms, closing {closing:.0f} ms")
            seconds, memory = await crowd(executor, cells)
            print(f"{cells} cells at once: {seconds:.1f} s until a command has run in each, {memory:.1f} MiB each")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.cells", description=__doc__)
    parser.add_argument("--cells", type=int, default=64, help="how many at once (default: 64)")
    parser.add_argument("--times", type=int, default=150, help="how often a command runs (default: 150)")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.cells, arguments.times))


if __name__ == "__main__":
    main()
