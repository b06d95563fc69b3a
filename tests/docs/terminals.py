"""A terminal that a reader has open: a shell that keeps its directory and variables from block to block."""

import asyncio
import codecs
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

_POLL_INTERVAL_SECONDS = 0.05
# `make` only says what it would do: the tests around this one do it.
_PRELUDE = r"""
make() { command make -n -C "$REPOSITORY" "$@" >/dev/null; }
trap 'printf "\nfailed with exit code %s: %s\n" $? "$BASH_COMMAND"' ERR
"""


class Terminal:
    """A shell in `directory`. Open it with `async with`; what still runs at the end is killed."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._blocks = 0
        self.output = ""

    async def __aenter__(self) -> Self:
        self._shell = await asyncio.create_subprocess_exec(
            "bash",
            "--norc",
            cwd=self._directory,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read())
        self._write(_PRELUDE)
        return self

    async def __aexit__(self, *error: object) -> None:
        os.killpg(self._shell.pid, signal.SIGKILL)
        await self._shell.wait()
        await self._reading

    def type(self, text: str) -> None:
        """Starts the commands of `text`, and forgets what was printed before."""
        self.output = ""
        self._blocks += 1
        self._write(f"{{ {text}\n}} </dev/null\necho; echo '{self._mark}'\n")

    async def ended(self) -> None:
        """Waits until the commands have ended, and fails if one of them did."""
        try:
            await self.until(lambda _: self._has_ended())
        except TimeoutError:
            raise AssertionError(f"has not ended; it printed\n{self.output}") from None
        assert "failed with exit code" not in self.output, self.output

    async def until(self, holds: Callable[[str], bool]) -> None:
        """Waits until what was printed is as wanted. Raises TimeoutError, at once when nothing more can come."""
        async with asyncio.timeout(60):
            while not holds(self.output):
                if self._has_ended() and not holds(self.output):
                    raise TimeoutError
                await asyncio.sleep(_POLL_INTERVAL_SECONDS)

    def _has_ended(self) -> bool:
        return not self._blocks or self._mark in self.output or self._shell.returncode is not None

    @property
    def _mark(self) -> str:
        return f"-- end of block {self._blocks} --"

    def _write(self, text: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(text.encode())

    async def _read(self) -> None:
        assert self._shell.stdout is not None
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may come in two parts
        while data := await self._shell.stdout.read(1 << 16):
            self.output += decoder.decode(data)
