"""What came of a trial."""

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """One trial: what was tried, how it went, and what to do now if it did not go well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    text: str
    next_step: str = ""
