"""Shuts exporters down at exit, within one timeout for all."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TIMEOUT_SECONDS = 3.0


class ExportFlush:
    """The last export of spans and metrics. Constructed by `flushed_at_exit`."""

    def __init__(self) -> None:
        self.timeout_seconds = _TIMEOUT_SECONDS
        """How long the exit may wait for it; whoever stops the service may lower it."""
        self._threads: list[threading.Thread] = []

    def start(self, shutdown: Callable[[], object]) -> None:
        """Runs `shutdown` of an exporter in a thread, which is abandoned if the collector does not answer in time."""
        thread = threading.Thread(target=shutdown, name="export-flush", daemon=True)
        thread.start()
        self._threads.append(thread)

    def wait(self) -> None:
        """Waits for all, at most `timeout_seconds`."""
        deadline = time.monotonic() + self.timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def flushed_at_exit() -> Iterator[ExportFlush]:
    """Waits at exit for what was started."""
    flush = ExportFlush()
    try:
        yield flush
    finally:
        flush.wait()
