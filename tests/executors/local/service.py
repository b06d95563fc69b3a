"""A service for tests to kill: opens a local executor, runs the commands of its arguments, and stays.

Usage: python service.py ROOT STATE_DIR COMMAND...
"""

import asyncio
import sys
from pathlib import Path

from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import Command, SandboxSpec, Stream


class Printing:
    async def write(self, stream: Stream, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


async def main(root: str, state_dir: str, *commands: str) -> None:
    async with (
        local_executor(root=Path(root), state_dir=Path(state_dir), terminate_grace=0.25) as executor,
        executor.open(SandboxSpec("of-the-service")) as sandbox,
    ):
        await asyncio.gather(*(sandbox.run(Command(text, 3600, Printing())) for text in commands))
        print("all ran", flush=True)
        await asyncio.sleep(3600)


asyncio.run(main(*sys.argv[1:]))
