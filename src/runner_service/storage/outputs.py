"""The output of commands."""

from typing import Protocol

from runner_service.executors.protocol import Stream


class Outputs(Protocol):
    """Reads stored output; `EventLog.append` writes it. Raises LogError."""

    async def read_output(
        self, execution_id: str, tool_call_id: str, stream: Stream, offset: int, max_bytes: int
    ) -> bytes | None:
        """Reads output of a command; None when there is no such call."""
