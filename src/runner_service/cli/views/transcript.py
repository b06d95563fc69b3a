"""Events as lines of text, for the plain and the live view."""

from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from typing import Any, NamedTuple

from runner_service import states
from runner_service.cli.views import wording
from runner_service.cli.views.changes import changed_lines
from runner_service.cli.views.file_changes import add_change, changed_files
from runner_service.cli.views.lines import LineSplitter, printable
from runner_service.v1 import execution_event_pb2 as event_pb2


class Kind(Enum):
    """The kind of a line."""

    HEAD = auto()
    TEXT = auto()
    REASONING = auto()
    CALL = auto()
    STDOUT = auto()
    STDERR = auto()
    ADDED = auto()
    REMOVED = auto()
    HIDDEN = auto()
    RESULT = auto()
    FAILURE = auto()
    PLAN = auto()
    AGENT = auto()
    NOTE = auto()
    WARNING = auto()
    FILE = auto()
    SUCCESS = auto()
    END = auto()


_CHANGE_KINDS = {"+": Kind.ADDED, "-": Kind.REMOVED, ".": Kind.HIDDEN}


_DECISIONS = {
    event_pb2.APPROVAL_ACTION_APPROVE: "approved",
    event_pb2.APPROVAL_ACTION_SKIP: "skipped",
    event_pb2.APPROVAL_ACTION_REJECT: "refused",
    event_pb2.APPROVAL_ACTION_EXPIRED: "not approved in time",
    event_pb2.APPROVAL_ACTION_WITHDRAWN: "no longer asked for",
    event_pb2.APPROVAL_ACTION_GRANTED: "approved by an earlier decision",
}


class Line(NamedTuple):
    """A line. `agent` is the sub-agent's label, empty for the main agent; `call` the number of the tool call, or 0."""

    kind: Kind
    text: str
    agent: str = ""
    call: int = 0


class _Call(NamedTuple):
    number: int
    started: event_pb2.ToolCallStarted
    stdout: LineSplitter
    stderr: LineSplitter


class _Message(NamedTuple):
    agent: str
    text: LineSplitter
    reasoning: LineSplitter


class Transcript:
    """Turns the events of one execution, in order from the first, into lines."""

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}
        self._calls_made = 0
        self._planning: dict[str, int] = {}
        self._messages: dict[str, _Message] = {}
        self._shown: set[str] = set()
        self._agents: dict[str, str] = {}
        self._root = ""
        self._files: dict[str, event_pb2.FileChange] = {}
        self.usage = event_pb2.Usage()
        """The usage so far."""
        self._renderers: dict[str, Callable[[Any, str], Iterable[Line]]] = {
            "text_delta": self._text,
            "reasoning_delta": self._reasoning,
            "message_finished": self._finish_message,
            "message_discarded": self._discard_message,
            "tool_call_started": self._start_call,
            "tool_output": self._output,
            "tool_call_finished": self._end_call,
            "todos_updated": self._plan,
            "sub_agent_started": self._start_agent,
            "usage_updated": self._count,
            "notice": _notice,
            "network_denied": _network_denied,
            "files_changed": self._note_files,
            "approval_requested": self._ask,
            "approval_decided": _decided,
            "finished": self._end,
        }

    def lines(self, event: event_pb2.ExecutionEvent) -> Iterator[Line]:
        """Yields the lines of `event`; none for unknown kinds."""
        name = event.WhichOneof("event")
        make = self._renderers.get(name) if name else None
        if name == "started":
            self._root = event.started.sandbox.root
            yield _head(event)
        elif name and make:
            yield from make(getattr(event, name), self.agent_of(event))

    def agent_of(self, event: event_pb2.ExecutionEvent) -> str:
        """Returns the label of the event's sub-agent; empty for the main agent."""
        return self._agents.get(event.sub_agent_id, printable(event.sub_agent_id))

    def partial_texts(self) -> Iterator[Line]:
        """Yields the lines that the model is still writing."""
        for message in self._messages.values():
            for kind, splitter in ((Kind.REASONING, message.reasoning), (Kind.TEXT, message.text)):
                if splitter.partial:
                    yield Line(kind, splitter.partial, message.agent)

    def _text(self, delta: event_pb2.TextDelta, agent: str) -> Iterator[Line]:
        message = self._message(delta.message_id, agent)
        for line in message.reasoning.flush():
            yield self._message_line(Kind.REASONING, line, delta.message_id)
        for line in message.text.feed(delta.text):
            yield self._message_line(Kind.TEXT, line, delta.message_id)

    def _reasoning(self, delta: event_pb2.ReasoningDelta, agent: str) -> Iterator[Line]:
        for line in self._message(delta.message_id, agent).reasoning.feed(delta.text):
            yield self._message_line(Kind.REASONING, line, delta.message_id)

    def _message(self, message_id: str, agent: str) -> _Message:
        return self._messages.setdefault(message_id, _Message(agent, LineSplitter(), LineSplitter()))

    def _message_line(self, kind: Kind, line: str, message_id: str) -> Line:
        self._shown.add(message_id)
        return Line(kind, line, self._messages[message_id].agent)

    def _end_message(self, message_id: str) -> Iterator[Line]:
        message = self._messages.pop(message_id, None)
        self._shown.discard(message_id)
        if message is not None:
            for line in message.reasoning.flush():
                yield Line(Kind.REASONING, line, message.agent)
            for line in message.text.flush():
                yield Line(Kind.TEXT, line, message.agent)

    def _finish_message(self, finished: event_pb2.MessageFinished, _: str) -> Iterator[Line]:
        return self._end_message(finished.message_id)

    def _discard_message(self, discarded: event_pb2.MessageDiscarded, agent: str) -> Iterator[Line]:
        self._messages.pop(discarded.message_id, None)
        if discarded.message_id in self._shown:
            self._shown.discard(discarded.message_id)
            yield Line(Kind.WARNING, "the model call failed and is made again; its text above does not count", agent)

    def _start_call(self, started: event_pb2.ToolCallStarted, agent: str) -> Iterator[Line]:
        self._calls_made += 1
        call = _Call(self._calls_made, started, LineSplitter(), LineSplitter())
        self._calls[started.tool_call_id] = call
        if started.kind == event_pb2.TOOL_KIND_PLAN:
            self._planning[agent] = call.number
        if started.kind not in {event_pb2.TOOL_KIND_PLAN, event_pb2.TOOL_KIND_SUB_AGENT}:  # those show themselves
            yield Line(Kind.CALL, wording.call_title(started, self._root), agent, call.number)

    def _output(self, output: event_pb2.ToolOutput, agent: str) -> Iterator[Line]:
        call = self._calls.get(output.tool_call_id)
        if call is None:
            return
        is_error = output.WhichOneof("data") == "stderr"
        kind = Kind.STDERR if is_error else Kind.STDOUT
        splitter, data = (call.stderr, output.stderr) if is_error else (call.stdout, output.stdout)
        for line in splitter.feed(data):
            yield Line(kind, line, agent, call.number)

    def _end_call(self, finished: event_pb2.ToolCallFinished, agent: str) -> Iterator[Line]:
        call = self._calls.pop(finished.tool_call_id, None)
        if call is None:
            return
        for kind, splitter in ((Kind.STDOUT, call.stdout), (Kind.STDERR, call.stderr)):
            for line in splitter.flush():
                yield Line(kind, line, agent, call.number)
        succeeded = finished.outcome == event_pb2.TOOL_OUTCOME_SUCCEEDED
        if call.started.kind == event_pb2.TOOL_KIND_PLAN and succeeded:
            return
        if succeeded:
            for mark, text in changed_lines(call.started):
                yield Line(_CHANGE_KINDS[mark], text, agent, call.number)
        if call.started.kind == event_pb2.TOOL_KIND_SUB_AGENT:
            agent = self._agents.get(finished.tool_call_id, agent)
        yield Line(Kind.RESULT if succeeded else Kind.FAILURE, wording.call_result(finished), agent, call.number)

    def _start_agent(self, started: event_pb2.SubAgentStarted, agent: str) -> Iterator[Line]:
        own = f"{agent}/{printable(started.name)}" if agent else printable(started.name)
        same = sum(label.partition("#")[0] == own for label in self._agents.values())
        label = self._agents[started.tool_call_id] = f"{own}#{same + 1}" if same else own
        call = self._calls.get(started.tool_call_id)
        yield Line(Kind.AGENT, wording.one_line(started.description, 300), label, call.number if call else 0)

    def _plan(self, updated: event_pb2.TodosUpdated, agent: str) -> Iterator[Line]:
        yield Line(Kind.PLAN, "\n".join(wording.plan_lines(updated)), agent, self._planning.get(agent, 0))

    def _ask(self, asked: event_pb2.ApprovalRequested, agent: str) -> Iterator[Line]:
        call = event_pb2.ToolCallStarted(name=asked.name, kind=asked.kind, arguments=asked.arguments)
        reason = f" ({wording.one_line(asked.reason, 200)})" if asked.reason else ""
        yield Line(Kind.WARNING, f"waits for approval: {wording.call_title(call, self._root)}{reason}", agent)

    def _count(self, updated: event_pb2.UsageUpdated, _: str) -> Iterator[Line]:
        self.usage = updated.usage
        return iter(())

    def _note_files(self, changed: event_pb2.FilesChanged, _: str) -> Iterator[Line]:
        for change in changed.changes:
            add_change(self._files, change)
        return iter(())

    def _end(self, finished: event_pb2.Finished, _: str) -> Iterator[Line]:
        for message_id in list(self._messages):
            yield from self._end_message(message_id)
        self.usage = finished.usage
        for text in changed_files(self._files.values(), finished.files_changed):
            yield Line(Kind.FILE, text)
        succeeded = states.is_success(finished.state)
        yield Line(Kind.SUCCESS if succeeded else Kind.END, wording.end_summary(finished))


def _head(event: event_pb2.ExecutionEvent) -> Line:
    started = event.started
    model = f"{started.model.provider}/{started.model.name}"
    resumed = ", resumed" if started.resumed else ""
    return Line(Kind.HEAD, printable(f"execution {event.execution_id}: {model} in {started.sandbox.root}{resumed}"))


def _network_denied(denied: event_pb2.NetworkDenied, agent: str) -> Iterator[Line]:
    text = f"{denied.host}:{denied.port} was refused: {denied.reason}"
    yield Line(Kind.WARNING, wording.one_line(text, 2000), agent)


def _decided(decided: event_pb2.ApprovalDecided, agent: str) -> Iterator[Line]:
    by = f" by {wording.one_line(decided.decided_by, 60)}" if decided.decided_by else ""
    comment = f": {wording.one_line(decided.comment, 300)}" if decided.comment else ""
    yield Line(Kind.NOTE, f"{_DECISIONS.get(decided.action, 'decided')}{by}{comment}", agent)


def _notice(notice: event_pb2.Notice, agent: str) -> Iterator[Line]:
    kind = Kind.WARNING if notice.level == event_pb2.Notice.LEVEL_WARNING else Kind.NOTE
    yield Line(kind, wording.one_line(notice.text, 2000), agent)
