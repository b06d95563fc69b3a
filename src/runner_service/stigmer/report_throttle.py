"""When to report: what matters at once, but never so much that all reports together outgrow the status itself.

A report carries whole lists, so a report for every event would cost the square of what there is to say. Here all of
them together stay within ten times the last one, however long an execution runs: a report is sent when it fits into a
budget that grows with the status.
"""

from dataclasses import dataclass

FREE = 6.0
"""How many times the present status may be sent without waiting."""

ALLOWED = 8.5
"""How many times it may be sent at all, before the last, whole report."""

BREATH = 2.0
"""Seconds between reports beyond what is free."""

TEXT_EVERY = 1.0
"""Seconds, at least, between reports of text alone."""

_TEXT_GROWTH = 1.25
_TEXT_PATIENCE = 5.0


@dataclass
class Pace:
    """What was sent for one execution so far. Sizes are in bytes, times in seconds of any steady clock."""

    sent: int = 0
    last_time: float = float("-inf")
    last_size: int = 0

    def note(self, sent: int, size: int, now: float) -> None:
        """Notes a report of `sent` bytes, made when the whole status had `size`."""
        self.sent += sent
        self.last_size = size
        self.last_time = now

    def wait(self, report: int, size: int, now: float, *, urgent: bool) -> float | None:
        """Returns how long a report has to wait: 0 if it goes at once, None if until the status has grown.

        Args:
            report: about how large it would be.
            size: about how large the whole status is.
            now: the time.
            urgent: whether it is more than text.
        """
        total = self.sent + report
        if total > ALLOWED * size:
            return None
        if urgent and total <= FREE * size:
            return 0.0
        if urgent:
            patience = BREATH
        else:
            patience = TEXT_EVERY if size >= _TEXT_GROWTH * self.last_size and total <= FREE * size else _TEXT_PATIENCE
        return max(0.0, self.last_time + patience - now)
