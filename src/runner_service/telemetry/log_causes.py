"""Limits log lines per cause, so that a flood hides nothing else and fills no disk."""

import logging
import time
from collections.abc import Iterator

MAX_LINES_PER_CAUSE = 50
"""How many lines of one cause are written in an interval; further ones are counted."""

MAX_NEWS_PER_CAUSE = 200
"""The same, of lines below WARNING outside of executions: of what happens to many, such as refused calls."""

_INTERVAL_SECONDS = 10.0
_MAX_CAUSES = 10_000

Cause = tuple[str, str, str]
"""The logger, the message before its arguments are put in (of a library: where it comes from), and the execution."""


class CauseLimit:
    """Counts the lines of each cause."""

    def __init__(self) -> None:
        self._end = 0.0
        self._counts: dict[Cause, int] = {}
        self._suppressed: dict[Cause, int] = {}

    def admits(self, record: logging.LogRecord, execution_id: str) -> bool:
        """Returns whether a line is to be written."""
        origin = str(record.msg) if is_own(record) else f"{record.module}:{record.lineno}"
        cause = (record.name, origin, execution_id)
        count = self._counts.get(cause, 0)
        if not count and len(self._counts) >= _MAX_CAUSES:
            return False
        self._counts[cause] = count + 1
        is_news = record.levelno < logging.WARNING and not execution_id
        if count < (MAX_NEWS_PER_CAUSE if is_news else MAX_LINES_PER_CAUSE):
            return True
        self._suppressed[cause] = self._suppressed.get(cause, 0) + 1
        return False

    def due_summaries(self, *, is_last: bool = False) -> Iterator[str]:
        """Yields, at the end of each interval, how many lines of which cause were not written."""
        now = time.monotonic()
        if now < self._end and not is_last:
            return
        suppressed, self._suppressed = self._suppressed, {}
        self._counts, self._end = {}, now + _INTERVAL_SECONDS
        for (name, origin, execution_id), count in suppressed.items():
            event = origin.partition(" ")[0]
            where = f" execution={execution_id}" if execution_id else ""
            yield f"log_lines_suppressed logger={name} event={event} count={count}{where}"


def is_own(record: logging.LogRecord) -> bool:
    """Returns whether a line is the service's own, and not a library's."""
    return record.name.partition(".")[0] == "runner_service"
