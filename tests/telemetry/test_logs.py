"""Log lines: whose they are, in which form, and what is never in them."""

import base64
import io
import json
import logging
import os
import re
import threading
from typing import Any

import pytest

from runner_service.redaction import MARK
from runner_service.settings import Settings
from runner_service.telemetry import execution_id_var, execution_span, logs, redact_with, server_span

logger = logging.getLogger("runner_service.somewhere")
SECRET = "correct-horse-battery"
TRACEPARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


def settings(**environ: str) -> Settings:
    return Settings.from_environment({"MODE": "local", **environ})


def failing(text: str, **options: Any) -> None:
    try:
        int(text)
    except ValueError as error:
        error.args = (text,)
        logger.exception("thing_failed", **options)


def lines_of(work: Any, **environ: str) -> list[str]:
    stream = io.StringIO()
    with logs(settings(**environ), stream):
        work()
    return stream.getvalue().splitlines()


def test_a_text_line_has_time_level_logger_message_and_ids() -> None:
    def work() -> None:
        with server_span("/a.B/C", TRACEPARENT), execution_span("exec-1"):
            logger.info("thing_done count=%d", 3)

    (line,) = lines_of(work)
    pattern = r"\d{4}-\d\d-\d\dT[\d:.]+Z INFO runner_service\.somewhere thing_done count=3 execution=exec-1"
    assert re.match(pattern, line)


def test_a_json_line_is_one_object_with_its_traceback_inside() -> None:
    def work() -> None:
        with server_span("/a.B/C", TRACEPARENT):
            failing("ü\nbroken")

    (line,) = lines_of(work, LOG_FORMAT="JSON")
    told = json.loads(line)
    assert (told["level"], told["logger"], told["message"]) == ("error", "runner_service.somewhere", "thing_failed")
    assert told["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert told["error"].endswith("ValueError: ü\nbroken")


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_of_the_service_or_of_the_execution_is_in_a_line(form: str) -> None:
    def work() -> None:
        with redact_with(lambda text: text.replace("execution-secret", "***")):
            logger.warning("said text=%s and %s", SECRET, "execution-secret")
            failing(SECRET + "execution-secret", stack_info=True)

    told = "\n".join(lines_of(work, LOG_FORMAT=form, AUTH_TOKEN=SECRET))
    assert f"{MARK} and ***" in told
    assert f"ValueError: {MARK}***" in told
    assert SECRET not in told
    assert "execution-secret" not in told.replace('"execution-secret"', "")  # the source line in the traceback


def test_a_message_cannot_forge_a_second_line() -> None:
    assert len(lines_of(lambda: logger.info("name=%s", "x\n2026-01-01T00:00:00Z INFO forged"))) == 1


@pytest.mark.parametrize("odd", ["\r", "\x1b", "\x85", "\u2028"])
def test_a_message_cannot_move_the_cursor_of_whoever_reads_it(odd: str) -> None:
    (line,) = lines_of(lambda: logger.info("name=%s", f"x{odd}forged"))
    assert line.isprintable()


def test_an_error_cannot_forge_a_line() -> None:
    lines = lines_of(lambda: failing("x\n2026-01-01T00:00:00Z INFO forged\x1b[2J"))
    assert all(line.startswith("  ") and line.isprintable() for line in lines[1:])


def test_the_level_is_that_of_the_service_and_libraries_speak_only_of_trouble() -> None:
    def work() -> None:
        logger.debug("shown")
        logging.getLogger("httpcore").debug("headers authorization")
        logging.getLogger("httpx").info("request")
        logging.getLogger("httpx").warning("trouble")

    shown, trouble = lines_of(work, LOG_LEVEL="DEBUG")
    assert shown.endswith(" shown")
    assert "WARNING httpx library_message module=test_logs line=" in trouble
    assert len(lines_of(lambda: logger.info("hidden"), LOG_LEVEL="warning")) == 0


def test_leaving_puts_everything_back() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("runner_service").level
    lines_of(lambda: logger.info("x"))
    assert (root.handlers[:], root.level, logging.getLogger("runner_service").level) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "log-lines"]
    assert execution_id_var.get() == ""


def test_a_reader_that_takes_nothing_holds_up_nobody_and_learns_what_it_missed() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as stream, logs(settings(), stream):
        for number in range(12_000):
            cause = f"filler-{number % 100} %s number=%d"  # of one cause fewer lines would be written
            logger.info(cause, "x" * 100, number)
        taken = [reader.readline() for _ in range(1_000)]
        logger.info("after")
        while "after" not in taken[-1]:
            taken.append(reader.readline())
    assert any("log_lines_dropped count=" in line for line in taken)


def test_a_line_that_cannot_be_formatted_breaks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(lambda: logger.info("count=%d", "three")) == []
    assert "Logging error" in capsys.readouterr().err


def test_a_stream_that_was_closed_breaks_nothing() -> None:
    stream = io.StringIO()
    with logs(settings(), stream):
        stream.close()
        logger.info("nobody listens")


class LibraryError(Exception):
    __module__ = "some_library.errors"


def test_what_a_library_quotes_of_a_secret_is_not_in_a_line() -> None:
    """It shortens it, so no redactor knows it."""

    def work() -> None:
        error = LibraryError(f"bad input {SECRET[:10]}...")
        logging.getLogger("some_library").error("cannot take %s...", SECRET[:10], exc_info=error)
        own = RuntimeError("our own")
        own.__cause__ = error
        logger.error("thing_failed", exc_info=own)

    told = "\n".join(lines_of(work))
    assert SECRET[:10] not in told.replace("SECRET[:10]", "")
    assert "library_message module=test_logs line=" in told
    assert "error=some_library.errors.LibraryError" in told
    assert "RuntimeError: our own" in told


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_key_of_the_service_is_found_in_the_forms_that_programs_print(form: str) -> None:
    encoded = base64.b64encode(f"user:{SECRET}".encode()).decode()
    told = "\n".join(lines_of(lambda: logger.warning("said header=%s", encoded), LOG_FORMAT=form, AUTH_TOKEN=SECRET))
    assert MARK in told
    assert encoded[8:-4] not in told


def test_a_flood_of_news_outside_of_executions_is_cut_and_counted() -> None:
    def work() -> None:
        for number in range(1000):
            logger.info("call_refused number=%d", number)

    lines = lines_of(work)
    assert len(lines) == 201
    assert "log_lines_suppressed logger=runner_service.somewhere event=call_refused count=800" in lines[-1]


def test_a_flood_of_one_cause_is_cut_and_counted_and_hides_no_other() -> None:
    def work() -> None:
        for number in range(1000):
            logger.warning("thing_refused number=%d", number)
        logger.warning("other_thing")
        with execution_span("exec-1"):
            logger.warning("thing_refused number=%d", 1)

    lines = lines_of(work)
    assert len([line for line in lines if "thing_refused number=" in line]) == 51
    assert any(line.endswith("other_thing") for line in lines)
    assert "log_lines_suppressed logger=runner_service.somewhere event=thing_refused count=950" in lines[-1]
