"""Log lines as text or JSON, with trace and execution ids, secrets redacted."""

import json
import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from opentelemetry import trace

from runner_service.identity import OPERATOR, current_caller
from runner_service.redaction import Redactor
from runner_service.settings import Settings
from runner_service.telemetry.log_causes import CauseLimit, is_own
from runner_service.telemetry.log_errors import describe_type, format_error

Redact = Callable[[str], str]

execution_id_var: ContextVar[str] = ContextVar("execution_id", default="")
"""Id of the execution that the current task belongs to; empty if none."""

_redact_var: ContextVar[Redact | None] = ContextVar("redact", default=None)

_MAX_QUEUED_LINES = 10_000  # lines
_CLOSE_TIMEOUT_SECONDS = 2.0


@contextmanager
def redact_with(redact: Redact) -> Iterator[None]:
    """Applies `redact` to the log lines of the current task and of tasks that it starts."""
    token = _redact_var.set(redact)
    try:
        yield
    finally:
        _redact_var.reset(token)


@contextmanager
def logs(settings: Settings, stream: TextIO | None = None) -> Iterator[None]:
    """Writes log lines to `stream`, by default stderr, in a thread, so that a slow reader blocks nobody.

    Beyond 10,000 queued lines, further ones are dropped and counted. Exit waits at most 2 s for the queue.
    """
    lines = _LineWriter(stream or sys.stderr)
    handler = _Handler(lines, _formatter(settings))
    root, own, level = logging.getLogger(), logging.getLogger("runner_service"), settings.log_level.upper()
    before = root.handlers[:], root.level, own.level
    root.handlers[:] = [handler]
    root.setLevel("ERROR" if level == "ERROR" else "WARNING")  # below, libraries log each request, with its headers
    own.setLevel(level)
    try:
        yield
    finally:
        root.handlers[:], root.level, own.level = before
        handler.close()
        lines.close()


def _formatter(settings: Settings) -> logging.Formatter:
    secrets = settings.secrets()
    return JsonFormatter(secrets) if settings.log_format == "json" else TextFormatter(secrets)


class _SafeFormatter(logging.Formatter):
    """Redacts the secrets of the service and of the current execution, and leaves out what libraries say.

    A library shortens what it quotes, and of a secret that was cut no redactor knows.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__()
        self._redactor = Redactor(secrets)

    def _safe(self, text: str) -> str:
        text = self._redactor.text(text)
        redact = _redact_var.get()
        return text if redact is None else redact(text)

    def _safe_message(self, record: logging.LogRecord) -> str:
        if is_own(record):
            return self._safe(record.getMessage())
        error = record.exc_info[1] if record.exc_info else None
        kind = f" error={describe_type(error)}" if error else ""
        return f"library_message module={record.module} line={record.lineno}{kind}"

    def _safe_traceback(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info and is_own(record) else None
        parts = [format_error(error)] if error else []
        return self._safe("\n".join([*parts, self.formatStack(record.stack_info)] if record.stack_info else parts))


class TextFormatter(_SafeFormatter):
    """One line of text, with the traceback, if any, indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns `time LEVEL logger message execution=… trace=…`."""
        message = _on_one_line(self._safe_message(record))  # or a caller could forge a line
        ids = "".join(f" {name}={value}" for name, value in (_ids() | _caller()).items())
        line = f"{_time(record)} {record.levelname} {record.name} {message}{ids}"
        traceback = self._safe_traceback(record)
        return "\n".join([line, *(f"  {_on_one_line(each)}" for each in traceback.split("\n") if traceback)])


def _on_one_line(text: str) -> str:
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class JsonFormatter(_SafeFormatter):
    """One JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns an object: `time`, `level`, `logger`, `message`; where known `execution_id`, `trace_id`, `error`."""
        line = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        line["message"] = self._safe_message(record)
        line |= {f"{name}_id": value for name, value in _ids().items()} | _caller()
        if traceback := self._safe_traceback(record):
            line["error"] = traceback
        return json.dumps(line, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ids() -> dict[str, str]:
    ids = {}
    if execution_id := execution_id_var.get():
        ids["execution"] = execution_id
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        ids["trace"] = trace.format_trace_id(span.trace_id)
    return ids


def _caller() -> dict[str, str]:
    """Returns who caused a line, when callers have names."""
    caller = current_caller.get(None)
    if caller is None or (caller.name, caller.tenant) == (OPERATOR.name, OPERATOR.tenant):
        return {}
    return {"caller": caller.name, "tenant": caller.tenant}


class _Handler(logging.Handler):
    """Formats in the caller's context, which knows the ids, and hands the line to the writer thread."""

    def __init__(self, lines: "_LineWriter", formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines = lines
        self._limit = CauseLimit()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write_summaries()
            if self._limit.admits(record, execution_id_var.get()):
                self._lines.enqueue(self.format(record))
        except Exception:  # noqa: BLE001  # logging must never break what logs
            self.handleError(record)

    def close(self) -> None:
        self._write_summaries(is_last=True)
        super().close()

    def _write_summaries(self, *, is_last: bool = False) -> None:
        for text in self._limit.due_summaries(is_last=is_last):
            self._lines.enqueue(
                self.format(
                    logging.makeLogRecord({"name": __name__, "msg": text, "levelno": 30, "levelname": "WARNING"})
                )
            )


class _LineWriter:
    """Writes lines to a stream in its own thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # a third of a queue with a limit
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="log-lines", daemon=True)
        self._thread.start()

    def enqueue(self, line: str) -> None:
        if self._waiting.qsize() < _MAX_QUEUED_LINES:
            self._waiting.put(line)
        else:
            self._dropped += 1

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join(_CLOSE_TIMEOUT_SECONDS)

    def _write_all(self) -> None:
        while (line := self._waiting.get()) is not None:
            dropped, self._dropped = self._dropped, 0
            lines = [f"log_lines_dropped count={dropped}", line] if dropped else [line]
            try:
                self._stream.write("".join(f"{each}\n" for each in lines))
                self._stream.flush()
            except (OSError, ValueError):  # the stream is closed: nowhere to report it
                continue
