"""The journal of tool calls: no call with side effects runs twice.

The start of a call is committed before it runs, and its result together with its `tool_call_finished` event. After a
crash the journal tells calls that never started and calls that ended from those whose effects are unknown.
"""

from typing import NamedTuple, Protocol


class CallResult(NamedTuple):
    """The result of a call: the serialised message for the model and its type, and the serialised event."""

    message_type: str
    message: bytes
    event: bytes


class JournaledCall(NamedTuple):
    """A call that was started. `result` is None when it did not end, so that its effects are unknown."""

    result: CallResult | None


class Journal(Protocol):
    """Reads the journal; `EventLog.append` writes it, and clears it when an execution ends. Raises LogError."""

    async def run_id(self, execution_id: str) -> str | None:
        """Returns the id of the execution's run, which unlike the execution's is never reused; None before it began."""

    async def find_call(self, execution_id: str, tool_call_id: str) -> JournaledCall | None:
        """Looks up a call; None when it never started."""
