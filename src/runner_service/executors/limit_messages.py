"""Messages for commands that exceed a resource limit."""

from dataclasses import dataclass
from typing import Literal

Limit = Literal["memory", "processes", "cpu_time"]

_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExceededLimit:
    """An exceeded limit and its value: bytes or processes of an execution, or CPU seconds of a command."""

    limit: Limit
    allowed: float

    @property
    def text(self) -> str:
        """Names the limit, its value and its variable."""
        match self.limit:
            case "memory":
                amount = f"more than {self.allowed / _MEBIBYTE:,.0f} MiB of memory"
                return f"{amount}, which all commands of the execution share (SANDBOX_MAX_MEMORY_BYTES)"
            case "processes":
                amount = f"more than {self.allowed:,.0f} processes"
                return f"{amount}, which all commands of the execution share (SANDBOX_MAX_PROCESSES)"
            case "cpu_time":
                amount = f"more than {self.allowed:,g} s of CPU time"
                return f"{amount}, which is what one command may use (SANDBOX_MAX_CPU_SECONDS)"

    @property
    def advice(self) -> str:
        """Says what a model can do instead."""
        match self.limit:
            case "memory":
                return (
                    "Do it in smaller pieces or one after the other, or stream the data instead of loading all of it."
                )
            case "processes":
                return (
                    "Start fewer at once (for example `make -j4`, `xargs -P4`), and look for what starts itself again."
                )
            case "cpu_time":
                return "Split it into several commands, do less, or look for a loop that does not end."
