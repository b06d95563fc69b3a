"""Starting the shell of a command: `posix_spawn`, in a session of its own, nothing inherited."""

import errno
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

# The kernel's bound for one argument, with its final NUL.
_LONGEST_ARGUMENT = 128 * 1024 - 1

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
    """The directory that the command should start in is not there any more."""


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
        with _short_enough(argv) as arguments, _dev_null() as nothing:
            source = nothing if stdin is None else stdin
            return _posix_spawn(arguments, environment, (source, stdout, stderr))
    finally:
        os.chdir("/")


def exit_code_of(error: Exception) -> int:
    """Returns what a shell would say: 127 for a program that is not there, else 126."""
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


@contextmanager
def _dev_null() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _short_enough(argv: Sequence[str]) -> Iterator[Sequence[str]]:
    """Replaces a text that is too long for an argument by one that reads it from a file without a name."""
    text = os.fsencode(argv[-1])
    if len(text) < _LONGEST_ARGUMENT or argv[1:2] != ["-c"]:
        yield argv
        return
    import tempfile  # noqa: PLC0415  # would double the time that the supervisor takes to start

    with tempfile.TemporaryFile() as file:
        file.write(text)
        file.flush()
        os.set_inheritable(file.fileno(), True)
        yield [*argv[:-1], f". /dev/fd/{file.fileno()}"]
