"""The directories of sandboxes: where they really are, made when they are missing, and removed."""

import asyncio
import os
from math import inf
from pathlib import Path
from typing import NamedTuple

from runner_service.executors.local.deep_removal import remove_whole
from runner_service.executors.protocol import SandboxError

_SEEN_SECONDS = 1.0
"""For how long a directory that was there is not looked at again: of many executions at once, one looks."""


class _Seen(NamedTuple):
    directory: Path
    real: str
    until: float


class Roots:
    """Makes and removes directories. Belongs to the event loop."""

    def __init__(self) -> None:
        self._seen = _Seen(Path(), "", -inf)

    async def existing(self, directory: Path) -> str:
        """Makes a directory if it is missing, and returns its real path. Raises SandboxError."""
        now = asyncio.get_running_loop().time()
        if self._seen.directory != directory or now >= self._seen.until:
            real = str(await asyncio.to_thread(_create_directory, directory))
            self._seen = _Seen(directory, real, now + _SEEN_SECONDS)
            return real
        return self._seen.real

    async def remove(self, directory: Path) -> None:
        """Removes a directory with what is in it. Raises SandboxError."""
        self._seen = _Seen(Path(), "", -inf)
        await asyncio.to_thread(_remove_directory, directory)
        self._seen = _Seen(Path(), "", -inf)


def resolve_root(directory: Path) -> Path:
    """Returns where the directory really is, or will be: it is there, or can most likely be made when it is needed."""
    try:
        real = directory.resolve()
        nearest = next(each for each in (real, *real.parents) if each.exists())
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise SandboxError(f"{directory} cannot be used as a sandbox: {error}") from error
    if not nearest.is_dir():
        raise SandboxError(f"{directory} cannot be used as a sandbox: {nearest} is no directory")
    if nearest != real and not os.access(nearest, os.W_OK | os.X_OK):
        raise SandboxError(f"{directory} cannot be used as a sandbox: {nearest} may not be written")
    return real


def _remove_directory(directory: Path) -> None:
    try:
        remove_whole(str(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        raise SandboxError(f"{directory} could not be deleted: {error.strerror}") from error


def _create_directory(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return directory.resolve(strict=True)
    except OSError as error:
        raise SandboxError(f"{directory} cannot be used as a sandbox: {error.strerror}") from error
