"""Logs, traces and metrics. None of them holds content or secrets."""

from collections.abc import Iterator
from contextlib import contextmanager

from runner_service.settings import Settings
from runner_service.telemetry.export_flush import ExportFlush, flushed_at_exit
from runner_service.telemetry.logs import execution_id_var, logs, redact_with
from runner_service.telemetry.loop_lag import monitored_loop
from runner_service.telemetry.metrics_export import metering, scrape_metrics
from runner_service.telemetry.spans import (
    chat_span,
    current_span_context,
    current_trace_id,
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
    "ExportFlush",
    "chat_span",
    "current_span_context",
    "current_trace_id",
    "execution_id_var",
    "execution_span",
    "flushed_at_exit",
    "logs",
    "metering",
    "monitored_loop",
    "record_call_status",
    "record_command",
    "record_failure",
    "record_usage",
    "redact_with",
    "scrape_metrics",
    "server_span",
    "telemetry",
    "tool_span",
    "tracing",
]


@contextmanager
def telemetry(settings: Settings) -> Iterator[ExportFlush]:
    """Logs to stderr, and exports spans and metrics where configured. Enter it before the event loop runs.

    Exit waits for the last export, for as long as what is yielded allows.
    """
    with logs(settings), flushed_at_exit() as flush, tracing(settings, flush), metering(settings, flush):
        yield flush
