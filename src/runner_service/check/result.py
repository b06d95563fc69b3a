"""The result of a check."""

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """One check: what was checked, its status, a text, and the next step if it failed."""

    name: str
    status: Literal["ok", "warn", "fail"]
    text: str
    next_step: str = ""
