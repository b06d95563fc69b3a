"""What fails again and again is logged when it begins, from time to time, and when it is over."""

import logging

import pytest

from runner_service.telemetry.failure_log import FailureLog

logger = logging.getLogger(__name__)


@pytest.mark.parametrize(("interval_seconds", "times"), [(600.0, 1), (0.0, 3)])
def test_a_failure_that_lasts_is_logged_once_in_an_interval(
    caplog: pytest.LogCaptureFixture, interval_seconds: float, times: int
) -> None:
    caplog.set_level(logging.INFO)
    failures = FailureLog(logger, "storage_away", "storage_back", interval_seconds=interval_seconds)
    failures.succeeded()
    for _ in range(3):
        failures.failed(TimeoutError())
    failures.succeeded()
    failures.succeeded()
    failures.failed(OSError("gone"))
    lines = times * ["storage_away error=TimeoutError"] + ["storage_back", "storage_away error=gone"]
    assert [record.getMessage() for record in caplog.records] == lines
