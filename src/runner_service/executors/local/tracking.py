"""Tracks the files of a local sandbox by the scanner, which runs as its commands do."""

import asyncio
import json
import os
import sys
from contextlib import suppress

from runner_service.executors.local.commands import Commands
from runner_service.executors.local.deep_removal import remove_whole
from runner_service.executors.local.environment import command_environment
from runner_service.executors.local.scan_messages import ScanMessages
from runner_service.executors.local.supervisor_process import PACKAGES
from runner_service.executors.local.write_recorder import WriteRecorder
from runner_service.executors.tracking import FoundChange, Handle, TrackingError

_SCAN_TIMEOUT_SECONDS = 60.0
_END_TIMEOUT_SECONDS = 5.0
_INTERPRETER = os.path.realpath(sys.executable)
_SOURCE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from runner_service.executors.local.scanner.main import main as run
run(sys.argv[1:])
"""


class LocalTracking:
    """Implements `Tracking`. `directory` is the scanner's, as seen by commands; `uses_git` if it is on the PATH.

    `is_confined`: what is there can only be removed by what runs as commands do.

    `allows_home`: the home directory may be tracked, without its hidden directories.
    """

    def __init__(
        self,
        commands: Commands,
        recorder: WriteRecorder,
        *,
        root: str,
        directory: str,
        is_confined: bool,
        uses_git: bool = True,
        allows_home: bool = False,
    ) -> None:
        self._commands = commands
        self._recorder = recorder
        self._root = root
        self._directory = directory
        self._is_confined = is_confined
        self._request = {
            "root": root,
            "directory": directory,
            "uses_git": uses_git,
            "allows_home": allows_home,
        }

    @property
    def place(self) -> str:
        """The sandbox's root."""
        return self._root

    @property
    def directory(self) -> str:
        """Where the scanner keeps what it remembers."""
        return self._directory

    @property
    def is_quiet(self) -> bool:
        """Whether no command of the sandbox runs, and nothing that one has left behind."""
        return self._commands.is_quiet

    async def begin(self) -> None:
        """Implements `Tracking`."""
        await self._run("remember", _ignore, _SCAN_TIMEOUT_SECONDS)

    async def written(self, handle: Handle) -> None:
        """Implements `Tracking`."""
        for change in self._recorder.take():
            await handle(change)

    async def scan(self, handle: Handle) -> None:
        """Implements `Tracking`."""
        await self._run("scan", handle, _SCAN_TIMEOUT_SECONDS)

    async def end(self) -> None:
        """Implements `Tracking`."""
        if self._is_confined:
            await self._run("forget", _ignore, _END_TIMEOUT_SECONDS)
        else:
            with suppress(OSError):
                await asyncio.to_thread(remove_whole, self._directory)

    async def _run(self, what: str, handle: Handle, timeout_seconds: float) -> None:
        request = {**self._request, "do": what, "also": self._recorder.paths()}
        messages = ScanMessages(handle)
        result = await self._commands.run_program(
            [
                _INTERPRETER,
                "-I",
                "-S",
                "-X",
                "utf8",
                "-c",
                _SOURCE,
                str(PACKAGES),
                json.dumps(request),
            ],
            cwd=self._root,
            timeout=timeout_seconds,
            sink=messages,
            environment=_environment(self._root),
        )
        if result.timed_out:
            raise TrackingError(f"looking for changes took more than {timeout_seconds:g} s")
        if result.exceeded:
            raise TrackingError(f"looking for changes used {result.exceeded.text}")
        if not messages.is_done:
            raise TrackingError(messages.failure or result.start_error or f"the scanner ended: {messages.stderr}")


def _environment(root: str) -> dict[str, str]:
    """Returns the scanner's variables: none of the caller's."""
    environment = command_environment({}, root=root)
    # Programs are started by their bare names, and an interpreter finds its library by its name and PATH.
    return {**environment, "PATH": f"{os.path.dirname(_INTERPRETER)}:{environment['PATH']}"}  # noqa: PTH120  # a string


async def _ignore(change: FoundChange) -> None:
    """Nothing is passed on."""
    del change
