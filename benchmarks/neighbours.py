"""How long one execution holds up the events of another: by its output, its deletion, and retention.

Usage: python -m benchmarks.neighbours.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

from runner_service.storage.event_log import NewEvent, NewExecution, NewOutput, NewState
from runner_service.storage.sqlite.event_log import SqliteEventLog, sqlite_event_log
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

MEBIBYTE = 1 << 20


async def store(log: SqliteEventLog, name: str, mebibytes: int) -> None:
    """Stores an execution: half of it events, half of it output of a command."""
    record = runner_pb2.Execution(execution_id=name, state=event_pb2.STATE_RUNNING)
    await log.append([NewExecution(record, b""), NewEvent(name, 1, b"<call>", tool_call_id="call")])
    for sequence in range(2, 2 + 4 * mebibytes, 2):
        output = NewOutput(name, "call", "stdout", bytes(MEBIBYTE // 4))
        await log.append(
            [NewEvent(name, sequence, bytes(MEBIBYTE // 4)), NewEvent(name, sequence + 1, b"<output>", output)]
        )
    await log.append([NewState(runner_pb2.Execution(execution_id=name, state=event_pb2.STATE_SUCCEEDED))])


async def longest_append(log: SqliteEventLog, meanwhile: Awaitable[object]) -> tuple[float, float]:
    """Returns the longest time that an event of another execution took, and how long it all took, in seconds."""
    sequence, longest, began = 0, 0.0, time.perf_counter()
    name = f"other-{began}"
    record = runner_pb2.Execution(execution_id=name, state=event_pb2.STATE_RUNNING)
    await log.append([NewExecution(record, b"")])
    work = asyncio.ensure_future(meanwhile)
    while not work.done():
        sequence += 1
        start = time.perf_counter()
        await log.append([NewEvent(name, sequence, b"<x>")])
        longest = max(longest, time.perf_counter() - start)
        await asyncio.sleep(0)
    await work
    return longest, time.perf_counter() - began


async def run(mebibytes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as directory:
        async with sqlite_event_log(Path(directory)) as log:
            for what, work in (
                (f"stores {mebibytes} MiB", lambda: store(log, "a", mebibytes)),
                ("is deleted", lambda: log.delete("a")),
                (f"stores {mebibytes} MiB", lambda: store(log, "b", mebibytes)),
                ("is pruned", lambda: log.prune(max_age=-1, max_bytes=1)),
            ):
                longest, seconds = await longest_append(log, work())
                print(f"while one {what} ({seconds:.1f} s), an event of another took {longest * 1e3:.0f} ms at most")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.neighbours", description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=500, help="size of the execution (default: 500)")
    asyncio.run(run(parser.parse_args().mebibytes))


if __name__ == "__main__":
    main()
