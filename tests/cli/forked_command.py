"""A command that a fork server has started, with the methods of `subprocess.Popen` that tests use."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from tests.forking import ForkedProcess, shared_fork_server


class ForkedCommand:
    """Started with its output, its errors and, if asked for, its input at pipes."""

    def __init__(
        self, arguments: Sequence[str], environ: Mapping[str, str], directory: Path, *, has_input: bool = False
    ) -> None:
        given, input_ = os.pipe() if has_input else (os.open(os.devnull, os.O_RDONLY), -1)
        output, out = os.pipe()
        errors, err = os.pipe()
        server = shared_fork_server("service" if arguments[:1] == ("serve",) else "commands")
        self._process: ForkedProcess = server.start(arguments, environ, directory, [given, out, err])
        for each in (given, out, err):
            os.close(each)
        self._stdin = os.fdopen(input_, "w") if has_input else None
        self.stdout: TextIO | None = os.fdopen(output)
        self.stderr: TextIO | None = os.fdopen(errors)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Asks it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """Kills it."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end and returns its exit code. Raises TimeoutError after `timeout` seconds."""
        return self._process.join(timeout)

    def communicate(self, text: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """Writes to its input, and returns what it writes until it ends. Raises TimeoutError."""
        assert self.stdout is not None
        assert self.stderr is not None
        with ThreadPoolExecutor(3) as threads:
            reading = [threads.submit(each.read) for each in (self.stdout, self.stderr)]
            threads.submit(self._write, text or "")
            try:
                self.wait(timeout)
            except TimeoutError:
                self.kill()
                raise
            out, err = (each.result() for each in reading)
        return out, err

    def _write(self, text: str) -> None:
        if self._stdin is not None:
            try:
                self._stdin.write(text)
                self._stdin.close()
            except BrokenPipeError:  # it reads no more, as Popen allows
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for stream in (self.stdout, self.stderr, self._stdin):
            if stream is not None:
                stream.close()
        self.wait()
