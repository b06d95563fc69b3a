"""A terminal with a command in it, and somebody at its keyboard."""

import codecs
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from types import TracebackType
from typing import Self

import psutil
from tests.cli.command_line import PROGRAM, TIMEOUT_SECONDS, CommandLine

CTRL_C = "\x03"
# A shell's background job, which may be what runs the tests, ignores SIGINT and lets its children inherit that.
_TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Terminal:
    """Runs a command of `shell` as a person would, in a terminal of 100 columns and 40 rows."""

    def __init__(self, shell: CommandLine, *arguments: str, **environ: str) -> None:
        self._command = [*PROGRAM, *arguments]
        self._directory = shell.directory
        self._environ = shell.environ | {"TERM": "xterm-256color"} | environ
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may come in two parts
        self.raw = ""

    def __enter__(self) -> Self:
        self._keyboard, screen = pty.openpty()
        ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *self._command],
            cwd=self._directory,
            env=self._environ,
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
        )
        os.close(screen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(TIMEOUT_SECONDS)
        os.close(self._keyboard)

    @property
    def text(self) -> str:
        """All that was written, without colours and movements."""
        return _ESCAPES.sub("", self.raw).replace("\r\n", "\n")

    def type(self, keys: str) -> None:
        """Types keys."""
        os.write(self._keyboard, keys.encode())

    def is_stopped(self) -> bool:
        """Tells whether the command is stopped, as by Ctrl-Z."""
        return psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED

    def resume(self) -> None:
        """Lets a stopped command continue, as `fg` does."""
        self._process.send_signal(signal.SIGCONT)

    def wait_for_raw(self, text: str) -> None:
        """Reads until `text` was written, escapes included."""
        while text not in self.raw:
            assert self._read(), f"it ended without {text!r}: {self.raw}"

    def terminate(self) -> None:
        """Sends SIGTERM to the command."""
        self._process.terminate()

    def wait_for(self, text: str) -> None:
        """Reads until `text` was written."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while text not in self.text:
            assert self._read(), f"it ended without {text!r}: {self.text}"
            assert time.monotonic() < deadline, f"no {text!r} in {self.text}"

    def exit_code(self) -> int:
        """Reads to the end, and returns the command's exit code."""
        while self._read():
            pass
        return self._process.wait(TIMEOUT_SECONDS)

    def _read(self) -> bool:
        if select.select([self._keyboard], [], [], 1.0)[0]:
            try:
                data = os.read(self._keyboard, 65536)
            except OSError:  # how Linux says that nobody has the other end any more
                return False
            self.raw += self._decoder.decode(data)
            return bool(data)
        return True
