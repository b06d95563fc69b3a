"""The executions that this process knows: those at work, and those that somebody looks at. The log has the others."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from runner_service.errors import NotFoundError, SequenceOutOfRangeError
from runner_service.events.stream import EventStream
from runner_service.events.writer import LogWriter
from runner_service.executions.execution import Execution
from runner_service.redaction import Redactor
from runner_service.storage.event_log import FINAL_STATES, EventLog, NewExecution, StoredExecution
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_INTERRUPTED_AT_MOST = 10_000


class Registry:
    """Finds executions by their id. Belongs to the event loop."""

    def __init__(self, log: EventLog, writer: LogWriter) -> None:
        self._log = log
        self._writer = writer
        self._known: dict[str, Execution] = {}
        self.watchers = 0
        """How many callers look on, at all executions together."""

    def known(self) -> Sequence[Execution]:
        """Returns those in memory."""
        return list(self._known.values())

    def is_at_work(self, execution_id: str) -> bool:
        """True for one that runs, or waits for its turn, in this process."""
        execution = self._known.get(execution_id)
        return execution is not None and execution.is_at_work

    async def find(self, execution_id: str) -> Execution:
        """Returns an execution. Raises NotFoundError, LogError."""
        execution = await self.lookup(execution_id)
        if execution is None:
            raise NotFoundError(f"execution {execution_id} is not in the log; it never was, or it was pruned")
        return execution

    async def lookup(self, execution_id: str) -> Execution | None:
        """Returns an execution, from memory or from the log; None when neither has it. Raises LogError."""
        if execution_id not in self._known:
            stored = await self._log.get(execution_id)
            if stored is None:
                return None
            if execution_id not in self._known:
                self._known[execution_id] = self._at_rest(stored)
        return self._known[execution_id]

    async def interrupted(self, session_id: str = "") -> Sequence[Execution]:
        """Returns those that were interrupted, of one session or of all, the newest first. Raises LogError."""
        page = await self._log.list_executions(
            limit=_INTERRUPTED_AT_MOST, before_key=0, states=[event_pb2.STATE_INTERRUPTED], session_id=session_id
        )
        found = [await self.lookup(record.execution_id) for record in page.executions]
        # One that was forgotten while the next was looked up is known again, or the one that has taken its place.
        known = [self._known.setdefault(each.id, each) for each in found if each]
        return [each for each in known if each.state == event_pb2.STATE_INTERRUPTED]

    def accept(
        self,
        request: runner_pb2.ExecuteAgentRequest,
        redactor: Redactor,
        *,
        fingerprint: bytes,
        kept: runner_pb2.ExecuteAgentRequest | None,
    ) -> Execution:
        """Makes a new execution and hands it to the log, with what is `kept` of its request."""
        record = runner_pb2.Execution(
            execution_id=request.execution_id or uuid.uuid4().hex,
            session_id=request.session_id,
            state=event_pb2.STATE_PENDING,
            agent_name=redactor.text(request.agent.name),
            labels={redactor.text(key): redactor.text(value) for key, value in request.labels.items()},
        )
        record.create_time.GetCurrentTime()
        stream = EventStream(record.execution_id, self._writer, self._log)
        execution = Execution(record, fingerprint, stream, kept)
        execution.redactor = redactor
        self._known[execution.id] = execution
        stored = runner_pb2.Execution()
        stored.CopyFrom(record)
        self._writer.enqueue(stream, NewExecution(stored, fingerprint, kept), request.ByteSize())
        return execution

    @contextmanager
    def watching(self, execution: Execution, after_sequence: int) -> Iterator[EventStream]:
        """Counts a caller that looks on, until the context ends. Raises SequenceOutOfRangeError."""
        self.watchers += 1
        try:
            with self.held(execution) as stream:
                if after_sequence > stream.committed:
                    raise SequenceOutOfRangeError(
                        f"after_sequence is {after_sequence}, but the newest event is {stream.committed}"
                    )
                yield stream
        finally:
            self.watchers -= 1

    @contextmanager
    def held(self, execution: Execution) -> Iterator[EventStream]:
        """Keeps an execution in memory until the context ends."""
        execution.holders += 1
        try:
            yield execution.stream
        finally:
            execution.holders -= 1
            self.forget_if_idle(execution)

    def forget_if_idle(self, execution: Execution) -> None:
        """Leaves to the log alone what neither runs nor is held, as soon as the log has it all."""
        if execution.holders or execution.is_at_work:
            return
        if execution.stream.committed == execution.stream.last_sequence:
            self._known.pop(execution.id, None)

    def _at_rest(self, stored: StoredExecution) -> Execution:
        record = stored.execution
        stream = EventStream(
            record.execution_id,
            self._writer,
            self._log,
            last_sequence=record.last_sequence,
            finished=record.state in FINAL_STATES,
        )
        return Execution(record, stored.fingerprint, stream, stored.request)
