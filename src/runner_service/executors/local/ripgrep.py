"""Ripgrep finds the files that `grep` then reads."""

import re
from collections.abc import Iterable, Iterator

from runner_service.executors.local.commands import Commands
from runner_service.executors.local.deadline import FILE_TIMEOUT_SECONDS
from runner_service.executors.local.grep import ripgrep_options
from runner_service.executors.protocol import SandboxError, Stream

_MAX_PATTERN_LENGTH = 100_000
_MAX_OUTPUT_BYTES = 8 * 1024 * 1024
_FOUND_SOME, _FOUND_NONE = 0, 1


class Ripgrep:
    """Asks ripgrep at `path` which files hold a pattern."""

    def __init__(self, path: str, commands: Commands) -> None:
        self._path = path
        self._commands = commands

    async def files_with(self, pattern: str, directory: str, *, include_ignored: bool) -> Iterable[str] | None:
        """Returns paths relative to `directory`; None when ripgrep cannot tell, so that all files have to be read."""
        if len(pattern) > _MAX_PATTERN_LENGTH:
            return None
        names = _Names()
        argv = [self._path, *ripgrep_options(include_ignored=include_ignored), "--regexp", pattern, "--", "./"]
        try:
            result = await self._commands.run_program(argv, cwd=directory, timeout=FILE_TIMEOUT_SECONDS, sink=names)
        except SandboxError:
            return None
        if result.exit_code not in {_FOUND_SOME, _FOUND_NONE} or names.are_too_many:
            return None
        return iter(names)


class _Names:
    def __init__(self) -> None:
        self._data = bytearray()
        self.are_too_many = False

    async def write(self, stream: Stream, data: bytes) -> None:
        if stream == "stdout" and not self.are_too_many:
            self._data += data
            self.are_too_many = len(self._data) > _MAX_OUTPUT_BYTES

    def __iter__(self) -> Iterator[str]:
        """Decodes lazily, for a thread to do: there may be millions."""
        for name in re.finditer(rb"(?:\./)?([^\0]+)\0", bytes(self._data)):
            yield name[1].decode("utf-8", "surrogateescape")
