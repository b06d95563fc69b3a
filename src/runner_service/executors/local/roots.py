"""The directories of sandboxes: where they really are, made when they are missing, and removed."""

import asyncio
import os
from functools import partial
from pathlib import Path

from runner_service.executors.local.deep_removal import remove_whole
from runner_service.executors.local.threads import FileThreads
from runner_service.executors.protocol import SandboxError


async def existing_root(directory: Path, threads: FileThreads) -> str:
    """Makes a directory if it is missing, and returns its real path. Raises SandboxError."""
    return await threads.run(partial(_create_directory, directory))


async def remove_root(directory: Path) -> None:
    """Removes a directory with what is in it. Raises SandboxError."""
    await asyncio.to_thread(_remove_directory, directory)


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


def _create_directory(directory: Path) -> str:
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
        return os.path.realpath(directory, strict=True)
    except OSError as error:
        raise SandboxError(f"{directory} cannot be used as a sandbox: {error.strerror}") from error
