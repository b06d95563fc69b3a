"""The last export at exit."""

import threading

from runner_service.telemetry import flushed_at_exit


def test_the_last_export_is_waited_for() -> None:
    exported = threading.Event()
    with flushed_at_exit() as flush:
        flush.start(exported.set)
    assert exported.is_set()


def test_exports_that_hang_are_abandoned_together_at_the_timeout() -> None:
    answered = threading.Event()
    with flushed_at_exit() as flush:
        flush.timeout_seconds = 0.05
        flush.start(answered.wait)
        flush.start(answered.wait)
    assert not answered.is_set()
    answered.set()
