"""Shared by the tests of executors: a sink that records all output, and queries for the processes of a sandbox."""

import asyncio
import os

from runner_service.executors.protocol import Command, CommandResult, Sandbox, Stream

MARK = f"71{os.getpid()}"
"""Begins the markers of this worker: others may run the same test at the same time, with another executor."""


class Recorder:
    """Records all output; `arrived` waits for some of it."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.pieces: list[int] = []
        self._changed = asyncio.Condition()

    async def write(self, stream: Stream, data: bytes) -> None:
        (self.stdout if stream == "stdout" else self.stderr).extend(data)
        self.pieces.append(len(data))
        async with self._changed:
            self._changed.notify_all()

    async def arrived(self, text: bytes) -> None:
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: text in self.stdout)


class Counter:
    """Counts output without keeping it."""

    def __init__(self) -> None:
        self.bytes = 0
        self.newlines = 0

    async def write(self, stream: Stream, data: bytes) -> None:
        self.bytes += len(data)
        self.newlines += data.count(b"\n")


async def run(sandbox: Sandbox, text: str, timeout: float = 30) -> tuple[CommandResult, bytes, bytes]:  # noqa: ASYNC109  # the command's
    """Runs a command; returns its result, stdout and stderr."""
    recorder = Recorder()
    result = await sandbox.run(Command(text, timeout, recorder))
    return result, bytes(recorder.stdout), bytes(recorder.stderr)


async def output(sandbox: Sandbox, text: str) -> str:
    """Runs a command that has to succeed; returns its stdout."""
    result, stdout, stderr = await run(sandbox, text)
    assert result.exit_code == 0, (result, stderr)
    return stdout.decode()


async def living(sandbox: Sandbox, marker: str) -> list[str]:
    """Returns the processes of the sandbox's machine with `marker` in an argument; a zombie has no arguments.

    Each test has a marker of its own: another one may run at the same time.
    """
    pattern = f"[{marker[0]}]{marker[1:]}".replace(".", r"\.")  # any longer number may have the digits
    _, stdout, _ = await run(sandbox, f"grep -las -- '{pattern}' /proc/[0-9]*/cmdline")
    return stdout.decode().split()


async def all_gone(sandbox: Sandbox, marker: str) -> bool:
    """Says whether no process with `marker` is left."""
    return not await living(sandbox, marker)


async def appeared(sandbox: Sandbox, marker: str, count: int = 1) -> None:
    """Waits until `count` processes with `marker` are there."""
    async with asyncio.timeout(60):
        while len(await living(sandbox, marker)) < count:
            await asyncio.sleep(0.02)
