"""A call is in the journal before it runs, and its result never before what it has published."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.agent.bench import command, open_bench, turn

from runner_service.storage.event_log import Entry, EventLog, NewCall, NewEvent, NewOutput, Rejection
from runner_service.v1 import agent_runner_pb2 as runner_pb2


class RecordedLog:
    """A log that remembers what it has committed, batch by batch."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.batches: list[Sequence[Entry]] = []

    async def append(self, entries: Sequence[Entry], owners: Mapping[str, int]) -> Mapping[str, Rejection]:
        rejected = await self._log.append(entries, owners)
        self.batches.append(entries)
        return rejected


def finishes(entry: Entry, call: str) -> bool:
    if not isinstance(entry, NewEvent) or entry.output:
        return False
    events = runner_pb2.ExecuteAgentResponse.FromString(entry.frame).events
    return any(event.tool_call_finished.tool_call_id == call for event in events)


async def test_a_result_is_committed_with_its_event_and_after_all_output(tmp_path: Path) -> None:
    logs: list[RecordedLog] = []

    def recorded(log: EventLog) -> EventLog:
        logs.append(RecordedLog(log))
        return logs[0]  # type: ignore[return-value]  # what a writer needs

    async with open_bench(tmp_path, recorded) as bench:
        played = await bench.play(
            turn("", command("seq 100000"), command("echo out; echo err >&2"), command("echo out; printf s3c")),
            turn("", ("write_file", {"file_path": "/a", "content": "b"})),
            turn("Done."),
            secrets=["s3cr3t"],  # how it begins is held back until a command has ended
        )
    calls = [event.tool_call_id for event in played.all("tool_call_started")]
    assert len(calls) == 4
    for call in calls:
        (batch,) = (
            each
            for each in logs[0].batches
            if any(isinstance(entry, NewCall) and entry.result and entry.tool_call_id == call for entry in each)
        )
        assert any(finishes(entry, call) for entry in batch), "the result is in another commit than its event"
        entries = [entry for each in logs[0].batches for entry in each]
        result = next(
            number
            for number, entry in enumerate(entries)
            if isinstance(entry, NewCall) and entry.result and entry.tool_call_id == call
        )
        outputs = [
            number
            for number, entry in enumerate(entries)
            if isinstance(entry, NewEvent) and isinstance(entry.output, NewOutput) and entry.output.tool_call_id == call
        ]
        assert all(number < result for number in outputs), "a result that is known before all output would lose it"
        assert played.output(call) == b"" or outputs


async def test_a_call_that_is_not_in_the_log_does_not_run(tmp_path: Path) -> None:
    """What the log refuses has not begun: killed here, the call would be run by whoever resumes it."""

    class Refusing(RecordedLog):
        async def append(self, entries: Sequence[Entry], owners: Mapping[str, int]) -> Mapping[str, Rejection]:
            calls = {entry.execution_id: Rejection.FENCED for entry in entries if isinstance(entry, NewCall)}
            kept = [entry for entry in entries if entry.execution_id not in calls]
            return {**await super().append(kept, owners), **calls}

    async with open_bench(tmp_path, Refusing) as bench:  # type: ignore[arg-type]  # as above
        played = await bench.play(turn("", command("touch ran")), turn("Done."), is_read=False)
        assert played.end
        assert played.end.code == "LOG_UNAVAILABLE"
        assert "another process owns the execution" in played.end.message
        assert not (bench.root / "ran").exists()
