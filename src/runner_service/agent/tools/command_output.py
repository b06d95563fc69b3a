"""Redacts, publishes and excerpts the output of one command."""

from runner_service.agent.interface import AgentRun
from runner_service.agent.tools.excerpt import Excerpt
from runner_service.executors.protocol import CommandResult, Stream

_STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")
_READ_BYTES = 1024 * 1024


class CommandOutput:
    """Redacts the output of a command, publishes it, and keeps an excerpt for the model.

    After `end`, output of background processes goes to the call's file only. What the redactor still holds back when
    the sandbox closes, because it may be the start of a secret, is dropped.
    """

    def __init__(self, run: AgentRun, tool_call_id: str, sub_agent_id: str) -> None:
        self._events = run.events
        self._tool_call_id = tool_call_id
        self._sub_agent_id = sub_agent_id
        self._redactors = {name: run.redactor.stream() for name in _STREAMS}
        self._room = run.limits.max_output_bytes
        self._ended = False
        self._published_before = {"stdout": 0, "stderr": 0}
        self.excerpt = Excerpt()
        self.written = {"stdout": 0, "stderr": 0}
        self.kept = {"stdout": 0, "stderr": 0}
        self.dropped = 0
        self.result: CommandResult | None = None

    async def skip_published(self) -> None:
        """Skips what an earlier process published: a resumed command replays its output from the first byte."""
        for stream in _STREAMS:
            offset = 0
            while data := await self._events.read_output(self._tool_call_id, stream, offset, _READ_BYTES):
                offset += len(data)
            self._published_before[stream] = offset

    async def write(self, stream: Stream, data: bytes) -> None:
        """Accepts the next bytes of `stream`; waits while the log is behind."""
        self.written[stream] += len(data)
        self._forward(stream, self._redactors[stream].feed(data))
        await self._events.wait_for_capacity()

    def end(self, result: CommandResult | None) -> None:
        """Flushes the redactors. `result` is None when the command was cancelled."""
        for stream in _STREAMS:
            self._forward(stream, self._redactors[stream].flush())
        self._ended = True
        self.result = result

    def _forward(self, stream: Stream, data: bytes) -> None:
        if not data:
            return
        if not self._ended:
            self.excerpt.add(stream, data)
        room = self._events.quota.output_room()
        kept = data[: self._room if room is None else min(self._room, room)]
        self.dropped += len(data) - len(kept)
        self._room -= len(kept)
        self.kept[stream] += len(kept)
        kept = kept[self._skip_count(stream, len(kept)) :]
        if kept and self._ended:
            self._events.store_late_output(self._tool_call_id, stream, kept)
        elif kept:
            self._events.publish_output(self._tool_call_id, stream, kept, sub_agent_id=self._sub_agent_id)

    def _skip_count(self, stream: Stream, size: int) -> int:
        known = min(self._published_before[stream], size)
        self._published_before[stream] -= known
        return known
