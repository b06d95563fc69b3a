"""Starts a command's shell by `posix_spawn`, in a new session, inheriting nothing."""

import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import IO

# The kernel's bound for one argument, with its final NUL.
_MAX_ARGUMENT_BYTES = 128 * 1024 - 1

_RESET_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGPIPE,
    signal.SIGXFSZ,
)


class RootGoneError(Exception):
    """The working directory cannot be entered."""


def spawn(
    argv: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    stdout: int,
    stderr: int,
    stdin: int | None = None,
) -> int:
    """Starts a program and returns its pid.

    The last argument of a shell (`-c TEXT`) may be of any length. Without `stdin` there is nothing to read.

    Raises:
        RootGoneError: `cwd` cannot be entered.
        OSError: the program cannot be started.
        ValueError: an argument or a variable cannot be given to a program.
    """
    try:
        os.chdir(cwd)
    except OSError as error:
        raise RootGoneError(str(error)) from error
    try:
        streams = (_dev_null() if stdin is None else stdin, stdout, stderr)
        if argv[1:2] != ["-c"] or len(text := os.fsencode(argv[-1])) < _MAX_ARGUMENT_BYTES:
            return _posix_spawn(argv, environment, streams)
        with _unnamed_file() as file:  # a script too long for one argument
            file.write(text)
            file.flush()
            os.set_inheritable(file.fileno(), True)
            return _posix_spawn([*argv[:-1], f". /dev/fd/{file.fileno()}"], environment, streams)
    finally:
        os.chdir("/")


def exit_code_of(error: Exception) -> int:
    """Returns a shell's exit code for the error: 127 if the program is missing, else 126."""
    return 127 if isinstance(error, OSError) and error.errno == errno.ENOENT else 126


def _posix_spawn(argv: Sequence[str], environment: Mapping[str, str], streams: tuple[int, int, int]) -> int:
    return os.posix_spawn(
        argv[0],
        [os.path.basename(argv[0]), *argv[1:]],  # noqa: PTH119  # pathlib would double what the supervisor imports
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(streams)],
        setsid=True,
        setsigmask=[],
        setsigdef=_RESET_SIGNALS,
    )


@cache
def _dev_null() -> int:
    """Opens it once: that takes as long as all else that is done for a start."""
    return os.open(os.devnull, os.O_RDONLY)


def _unnamed_file() -> IO[bytes]:
    """Opens a file in memory, since a confined command may have no directory to write to; else one on disk."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("command"), "w+b")
    import tempfile  # noqa: PLC0415  # would double the time that the supervisor takes to start

    return tempfile.TemporaryFile()
