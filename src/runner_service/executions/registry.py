"""The executions in memory: those that are active and those that somebody holds. The log has the others."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runner_service import states
from runner_service.agent.resume import read_resumption
from runner_service.errors import NotFoundError
from runner_service.events.notifier import Notifier
from runner_service.events.stream import EventStream
from runner_service.events.writer import LogWriter
from runner_service.executions.execution import Execution
from runner_service.identity import NO_KEY, OwnerKey, bare_id, current_caller
from runner_service.redaction import Redactor
from runner_service.storage.event_log import EventLog, NewExecution, StoredExecution
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.owner_history import OwnerHistory, Start
from runner_service.storage.ownership import Claim
from runner_service.v1 import agent_runner_pb2 as runner_pb2

if TYPE_CHECKING:
    from runner_service.executions.secret_box import SecretBox

_MAX_INTERRUPTED = 10_000


def not_in_log(key: OwnerKey) -> NotFoundError:
    """Returns the error for an id that the caller's tenant does not have, whoever else may."""
    return NotFoundError(f"execution {bare_id(key)} is not in the log; it never was, or it was pruned")


class Registry:
    """Finds executions by their id. Belongs to the event loop."""

    def __init__(self, log: EventLog, writer: LogWriter, secret_box: "SecretBox | None" = None) -> None:
        self._secret_box = secret_box
        self._log = log
        self._writer = writer
        self._in_memory: dict[str, Execution] = {}
        self.approval_changes = Notifier()
        """Notifies when a request for approval of any execution is published or decided."""
        self.is_stopping = False
        """True once the service stops: whoever watches is to look elsewhere."""
        self.watchers = 0
        """How many callers and watchers there are, of all executions together."""

    def in_memory(self) -> Sequence[Execution]:
        """Returns those in memory."""
        return list(self._in_memory.values())

    def get_in_memory(self, execution_id: str) -> Execution | None:
        """Returns an execution if it is in memory, unless another process has taken it over."""
        execution = self._in_memory.get(execution_id)
        if execution and execution.stream.is_fenced:
            del self._in_memory[execution_id]
            return None
        return execution

    def is_active(self, execution_id: str) -> bool:
        """True for one that runs, or waits in the queue, in this process."""
        execution = self.get_in_memory(execution_id)
        return execution is not None and execution.is_active and not execution.is_remote

    async def find(self, execution_id: OwnerKey) -> Execution:
        """Returns an execution. Raises NotFoundError, LogError."""
        execution = await self.lookup(execution_id)
        if execution is None:
            raise not_in_log(execution_id)
        return execution

    async def lookup(self, execution_id: OwnerKey) -> Execution | None:
        """Returns an execution, from memory or from the log; None when neither has it. Raises LogError."""
        known = self.get_in_memory(execution_id)
        if known is None or known.is_remote:
            stored = await self._log.get(execution_id)
            if stored is None:
                return None
            known = self.get_in_memory(execution_id)
            if known is None:
                known = self._in_memory[execution_id] = self._restore(stored)
            known.observe(stored)
        return known

    async def load_approvals(self, execution: Execution) -> None:
        """Loads the approvals of an execution that an earlier process has run. Raises LogError."""
        if not execution.approvals.call_ids and execution.has_started:
            execution.approvals.restore((await read_resumption(self._log, execution.id)).approval_events)

    async def interrupted(self, session_id: OwnerKey = NO_KEY) -> Sequence[Execution]:
        """Returns those that were interrupted, of one session or of all, the newest first. Raises LogError."""
        page = await self._log.list_executions(
            ExecutionFilter([states.INTERRUPTED], session_id=session_id), limit=_MAX_INTERRUPTED
        )
        found = [await self.lookup(OwnerKey(record.execution_id)) for record in page.executions]
        # One that was dropped while the next was looked up is in memory again, or the one that has taken its place.
        current = [self._in_memory.setdefault(each.id, each) for each in found if each]
        return [each for each in current if each.can_be_resumed]

    def create(
        self,
        request: runner_pb2.ExecuteAgentRequest,
        redactor: Redactor,
        *,
        claim: Claim,
        fingerprint: bytes,
        stored_request: runner_pb2.ExecuteAgentRequest | None,
        values: Mapping[str, bytes] = {},
    ) -> Execution:
        """Makes a new PENDING execution and hands it to the log, with what may be stored of its request."""
        record = runner_pb2.Execution(
            execution_id=claim.execution_id,
            session_id=request.session_id,
            state=states.PENDING,
            agent_name=redactor.text(request.agent.name),
            labels={redactor.text(key): redactor.text(value) for key, value in request.labels.items()},
        )
        if caller := current_caller.get(None):
            record.caller.CopyFrom(caller.message())
        record.create_time.FromNanoseconds(time.time_ns())
        stream = EventStream(record.execution_id, self._writer, self._log)
        stream.owner_token = claim.token
        stream.positions.owners = OwnerHistory([Start(claim.token, 0)] if claim.token else [])
        execution = Execution(record, fingerprint, stream, stored_request, redactor, self.approval_changes.notify_all)
        self._in_memory[execution.id] = execution
        copy = runner_pb2.Execution()
        copy.CopyFrom(record)
        sealed = self._secret_box.seal(execution.id, request) if self._secret_box and stored_request is None else None
        execution.is_portable = self.is_portable(stored_request)
        stream.append(NewExecution(copy, fingerprint, stored_request, values, sealed), request.ByteSize())
        return execution

    def is_portable(self, stored_request: runner_pb2.ExecuteAgentRequest | None) -> bool:
        """Tells whether another process could run an execution of whose request so much is stored."""
        return stored_request is not None or self._secret_box is not None

    @contextmanager
    def watching(self, execution: Execution, after_sequence: int, after_owner: int) -> Iterator[EventStream]:
        """Counts a caller or watcher until the context ends. Raises as `Positions.require` does."""
        self.watchers += 1
        try:
            with self.holding(execution) as stream:
                stream.positions.require(after_sequence, after_owner, stream.committed, finished=stream.finished)
                yield stream
        finally:
            self.watchers -= 1

    @contextmanager
    def holding(self, execution: Execution) -> Iterator[EventStream]:
        """Keeps an execution in memory until the context ends."""
        execution.holders += 1
        if not execution.stream.is_fenced:
            self._in_memory.setdefault(execution.id, execution)  # one that nobody held may have been dropped
        try:
            with execution.stream.followed():
                yield execution.stream
        finally:
            execution.holders -= 1
            self.drop_if_idle(execution)

    def drop(self, execution: Execution) -> None:
        """Drops an execution that is being deleted."""
        self._in_memory.pop(execution.id, None)

    def drop_if_idle(self, execution: Execution) -> None:
        """Drops from memory what is neither active nor held, as soon as the log has all of it."""
        if execution.holders or (execution.is_active and not execution.is_remote):
            return
        if execution.stream.is_flushed and self._in_memory.get(execution.id) is execution:
            del self._in_memory[execution.id]

    def _restore(self, stored: StoredExecution) -> Execution:
        record = stored.execution
        stream = EventStream(
            record.execution_id,
            self._writer,
            self._log,
            last_sequence=record.last_sequence,
            finished=states.is_final(record.state),
        )
        stream.is_remote = not stream.finished
        stream.positions.owners = stored.owners
        stream.owner_token = stored.owners.token if stream.finished else 0  # nobody takes it over any more
        return Execution(
            record, stored.fingerprint, stream, self._request(stored), Redactor([]), self.approval_changes.notify_all
        )

    def _request(self, stored: StoredExecution) -> runner_pb2.ExecuteAgentRequest | None:
        if stored.request is None and stored.sealed_request is not None and self._secret_box:
            return self._secret_box.open(stored.execution.execution_id, stored.sealed_request)
        return stored.request
