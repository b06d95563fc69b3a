"""What was logged in a test."""

import logging
from collections.abc import Sequence

import pytest


def errors(caplog: pytest.LogCaptureFixture) -> Sequence[logging.LogRecord]:
    """Returns the records of errors, but for one of grpc: its queue wakes the loops of earlier tests as well."""
    return [
        record
        for record in caplog.records
        if record.levelno >= logging.ERROR and "PollerCompletionQueue" not in record.getMessage()
    ]
