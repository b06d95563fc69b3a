"""Decides when to send a status report: tool calls and phases at once, within a total budget of bytes.

Each report carries whole lists, so one report per event would cost quadratic bytes. The budget grows with the status:
all reports of an execution together stay within ten times the size of the last one, however long it runs.
"""

from dataclasses import dataclass

IMMEDIATE_BUDGET = 6.0
"""Multiple of the current status size that may be sent without waiting."""

TOTAL_BUDGET = 8.5
"""Multiple of the current status size that may be sent at all before the final, complete report."""

URGENT_INTERVAL_SECONDS = 2.0
"""Minimum interval between urgent reports beyond IMMEDIATE_BUDGET."""

TEXT_INTERVAL_SECONDS = 1.0
"""Minimum interval between reports that only add text."""

_TEXT_GROWTH = 1.25
_SLOW_TEXT_INTERVAL_SECONDS = 5.0


@dataclass
class ReportThrottle:
    """Tracks what was sent for one execution. Sizes are in bytes, times in seconds of any monotonic clock."""

    sent: int = 0
    last_time: float = float("-inf")
    last_size: int = 0

    def record_report(self, sent: int, size: int, now: float) -> None:
        """Records a report of `sent` bytes, made when the whole status had `size`."""
        self.sent += sent
        self.last_size = size
        self.last_time = now

    def delay_before(self, report: int, size: int, now: float, *, urgent: bool) -> float | None:
        """Returns the seconds to wait before a report: 0 to send now, None to wait until the status has grown.

        Args:
            report: estimated size of the report.
            size: estimated size of the whole status.
            now: the current time.
            urgent: whether it contains more than text.
        """
        total = self.sent + report
        if total > TOTAL_BUDGET * size:
            return None
        if urgent and total <= IMMEDIATE_BUDGET * size:
            return 0.0
        if urgent:
            interval = URGENT_INTERVAL_SECONDS
        elif size >= _TEXT_GROWTH * self.last_size and total <= IMMEDIATE_BUDGET * size:
            interval = TEXT_INTERVAL_SECONDS
        else:
            interval = _SLOW_TEXT_INTERVAL_SECONDS
        return max(0.0, self.last_time + interval - now)
