"""What the service says about itself: log lines, spans and metrics, none of which ever holds content or a secret."""

from collections.abc import Iterator
from contextlib import contextmanager

from runner_service.settings import Settings
from runner_service.telemetry.logs import execution_id_var, logs, redact_with
from runner_service.telemetry.loop_lag import watched_loop
from runner_service.telemetry.metrics_export import metering, scraped
from runner_service.telemetry.spans import (
    chat_span,
    current_span_context,
    execution_span,
    record_call_status,
    record_command,
    record_failure,
    record_usage,
    server_span,
    tool_span,
)
from runner_service.telemetry.tracing import tracing

__all__ = [
    "chat_span",
    "current_span_context",
    "execution_id_var",
    "execution_span",
    "logs",
    "metering",
    "record_call_status",
    "record_command",
    "record_failure",
    "record_usage",
    "redact_with",
    "scraped",
    "server_span",
    "telemetry",
    "tool_span",
    "tracing",
    "watched_loop",
]


@contextmanager
def telemetry(settings: Settings) -> Iterator[None]:
    """Writes log lines to stderr, and hands out spans and metrics if somebody is to have them.

    Belongs around the event loop.

    Leaving waits a few seconds at most for what has not been written and sent yet.
    """
    with logs(settings), tracing(settings), metering(settings):
        yield
