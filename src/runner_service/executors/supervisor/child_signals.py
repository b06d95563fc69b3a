"""A descriptor that tells of children that have exited, for `poll`."""

import ctypes
import os
import signal
import sys
from contextlib import suppress

_SIGNAL_SET_BYTES = 128


def open_child_signals() -> int:
    """Returns a descriptor that is readable when a child has exited since it was last read. It does not block.

    Call it before there are threads: on Linux SIGCHLD is blocked from then on, in what they start, too. There it is a
    signalfd, which `poll` returns for at once; a handler would interrupt `poll`, and write to a pipe to have it return.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a kernel or a libc without it
            return _signalfd()
    return _pipe_written_by_handler()


def _signalfd() -> int:
    mask = (1 << signal.SIGCHLD - 1).to_bytes(8, sys.byteorder).ljust(_SIGNAL_SET_BYTES, b"\0")
    descriptor = int(ctypes.CDLL(None, use_errno=True).signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as it may have been inherited, it would reap them
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    return descriptor


def _pipe_written_by_handler() -> int:
    reader, writer = os.pipe()
    for descriptor in (reader, writer):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader
