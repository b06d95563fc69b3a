"""Invariants of a finished execution, however often the service was killed."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.caller import expected_action
from tests.chaos.scenario import CALLS, EXPECTED_FAILURE, OUTPUT_LINES, main_agent_texts, sub_agent_texts
from tests.running import Event, kinds

from runner_service.v1 import execution_event_pb2 as event_pb2

_EFFECT = re.compile(r"echo '([^']*)' >> effects")
_SUCCEEDED, _FAILED = event_pb2.TOOL_OUTCOME_SUCCEEDED, event_pb2.TOOL_OUTCOME_FAILED
_INTERRUPTED, _REJECTED = event_pb2.TOOL_OUTCOME_INTERRUPTED, event_pb2.TOOL_OUTCOME_REJECTED
_LARGE_OUTPUT = "".join(f"{number}\n" for number in range(1, OUTPUT_LINES + 1)).encode()


class ExecutionTrace:
    """The events of one execution."""

    def __init__(self, name: str, events: Sequence[Event]) -> None:
        self.name = name
        self.events = events
        self.started = {each.tool_call_id: each for each in self._all("tool_call_started")}
        self.finished = {each.tool_call_id: each for each in self._all("tool_call_finished")}
        self.agent_of_call = {
            event.tool_call_started.tool_call_id: event.sub_agent_id
            for event in events
            if event.HasField("tool_call_started")
        }

    def check(self, workspace: Path, effects: Counter[str]) -> None:
        """Asserts all invariants."""
        self._check_ends()
        self._check_calls()
        self._check_approvals()
        self._check_texts()
        for call in self.started.values():
            if call.name == "execute":
                self._check_command(call, effects)
        self._check_file(workspace)

    def decisions(self) -> int:
        """How many requests for approval were decided."""
        return len(self._all("approval_decided"))

    def interrupted_calls(self) -> int:
        """How many calls ended as interrupted."""
        return sum(each.outcome == _INTERRUPTED for each in self.finished.values())

    def process_count(self) -> int:
        """In how many service processes it ran."""
        return kinds(self.events).count("started")

    def _all(self, kind: str) -> list[Any]:
        return [getattr(event, kind) for event in self.events if event.WhichOneof("event") == kind]

    def _check_ends(self) -> None:
        assert [event.sequence for event in self.events] == list(range(1, len(self.events) + 1))
        assert kinds(self.events).count("finished") == 1
        finished = self.events[-1].finished
        assert finished.state == event_pb2.STATE_SUCCEEDED, f"{self.name}: {finished}"
        assert finished.output == main_agent_texts(self.name)[-1]
        assert finished.usage.tool_calls == CALLS, f"{self.name}: {finished.usage}"
        assert all(each.resumed for each in self._all("started")[1:])

    def _check_calls(self) -> None:
        for kind in ("tool_call_started", "tool_call_finished"):
            ids = Counter(each.tool_call_id for each in self._all(kind))
            assert len(ids) == CALLS, f"{self.name}: {len(ids)} × {kind}: {sorted(self.started)}"
            assert set(ids.values()) == {1}, f"{self.name}: {kind} {ids}"
        assert self.started.keys() == self.finished.keys()
        for kind in ("sub_agent_started", "sub_agent_finished"):
            helpers = [each.tool_call_id for each in self._all(kind)]
            assert sorted(helpers) == sorted(each for each, call in self.started.items() if call.name == "task")

    def _check_approvals(self) -> None:
        """Every request was decided once, before its call; what was rejected did not run."""
        requested = {(each.tool_call_id, each.generation): each for each in self._all("approval_requested")}
        assert len(requested) == len(self._all("approval_requested")), f"{self.name}: asked twice"
        decided = Counter((each.tool_call_id, each.generation) for each in self._all("approval_decided"))
        assert decided == Counter(requested.keys()), f"{self.name}: {decided} of {requested.keys()}"
        for each in self._all("approval_decided"):
            assert each.action == expected_action(requested[each.tool_call_id, each.generation])
        begun: set[str] = set()
        for event in self.events:
            if event.HasField("tool_call_started"):
                begun.add(event.tool_call_started.tool_call_id)
            elif event.HasField("approval_decided"):
                assert event.approval_decided.tool_call_id not in begun, f"{self.name}: decided after it began"

    def _check_texts(self) -> None:
        said: dict[str, dict[str, str]] = defaultdict(dict)
        gone: set[str] = set()
        for event in self.events:
            if event.HasField("text_delta"):
                message = event.text_delta.message_id
                assert message not in gone, f"{self.name}: {message} goes on after it was discarded"
                said[event.sub_agent_id][message] = said[event.sub_agent_id].get(message, "") + event.text_delta.text
            elif event.HasField("message_discarded"):
                gone.add(event.message_discarded.message_id)
                said[event.sub_agent_id].pop(event.message_discarded.message_id, None)
        for agent, messages in said.items():
            words = (
                sub_agent_texts(self.started[agent].arguments["description"]) if agent else main_agent_texts(self.name)
            )
            assert list(messages.values()) == list(words), f"{self.name} {agent}: {messages}"
        finished = Counter(each.message_id for each in self._all("message_finished") if each.message_id not in gone)
        assert set(finished.values()) == {1}, f"{self.name}: {finished}"
        assert {message for each in said.values() for message in each} <= finished.keys(), f"{self.name}: {finished}"

    def _check_command(self, call: event_pb2.ToolCallStarted, effects: Counter[str]) -> None:
        text = str(call.arguments["command"])
        found = _EFFECT.search(text)
        assert found
        line, end = found[1], self.finished[call.tool_call_id]
        if end.outcome == _INTERRUPTED:
            assert effects[line] <= 1, f"{self.name}: {line} happened {effects[line]} times"
            return
        if end.outcome == _REJECTED:
            assert expected_action(self._asked(call.tool_call_id)) == event_pb2.APPROVAL_ACTION_REJECT
            assert effects[line] == 0, f"{self.name}: {line} happened, and was rejected"
            return
        wanted = _FAILED if line.endswith(f" {EXPECTED_FAILURE}") else _SUCCEEDED
        assert end.outcome == wanted, f"{self.name}: {line} ended {end}"
        assert end.exit_code == (3 if wanted == _FAILED else 0), f"{self.name}: {line} ended {end}"
        assert effects[line] == 1, f"{self.name}: {line} happened {effects[line]} times"
        if text.startswith("seq"):
            assert self.output_of(call.tool_call_id) == _LARGE_OUTPUT, f"{self.name}: the output of {line} is not whole"

    def _asked(self, call: str) -> event_pb2.ApprovalRequested:
        found: event_pb2.ApprovalRequested = next(
            each for each in self._all("approval_requested") if each.tool_call_id == call
        )
        return found

    def output_of(self, call: str) -> bytes:
        """The standard output of a command, from its events."""
        return b"".join(each.stdout for each in self._all("tool_output") if each.tool_call_id == call)

    def _check_file(self, workspace: Path) -> None:
        outcomes = {call.name: self.finished[each].outcome for each, call in self.started.items()}
        file = workspace / f"{self.name}.txt"
        content = file.read_text() if file.exists() else None
        if outcomes["write_file"] == _SUCCEEDED:
            allowed = {"begin\nmark mark\n"}
            if outcomes["edit_file"] == _INTERRUPTED:
                allowed.add("begin\nmark\n")
            assert content in allowed, f"{self.name}: {content!r} after {outcomes}"
        else:
            assert content in {None, "begin\nmark\n", "begin\nmark mark\n"}, f"{self.name}: {content!r}"
