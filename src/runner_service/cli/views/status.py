"""The status line of the live view: the clock, and what is waited for."""

import time

from runner_service.cli.views import wording
from runner_service.v1 import execution_event_pb2 as event_pb2

_QUIET_SECONDS = 2.0  # after which the line says what is waited for


class Status:
    """Follows the events of an execution. `hint` says what keys do."""

    def __init__(self, hint: str) -> None:
        self._hint = hint
        self._start_time = self._last_event_time = time.monotonic()
        self._is_known = False
        self._has_started = False

    def update(self, event: event_pb2.ExecutionEvent) -> None:
        """Counts the time from when the service says that the execution began, so that both agree in the end."""
        self._is_known = True
        self._last_event_time = time.monotonic()
        if event.HasField("started"):
            self._has_started = True
            self._start_time = monotonic_time_of(event)
        elif event.HasField("finished"):
            self._has_started = False

    def text(self, usage: event_pb2.Usage, *, calls_are_running: bool) -> str:
        """Returns the line."""
        now = time.monotonic()
        clock = wording.seconds(now - self._start_time)
        if not self._has_started:
            return f"{clock}; {self._hint}" if self._is_known else f"starting, {clock}; {self._hint}"
        quiet = now - self._last_event_time
        if calls_are_running or quiet < _QUIET_SECONDS:
            return f"{clock}, {wording.tokens(usage)}; {self._hint}"
        return f"{clock}, waiting for the model, {wording.seconds(quiet)}; {self._hint}"


def monotonic_time_of(event: event_pb2.ExecutionEvent) -> float:
    """Returns when the event happened by our clock; now, if the service's clock is ahead of ours."""
    return time.monotonic() - max(0.0, time.time() - event.create_time.ToNanoseconds() / 1e9)
