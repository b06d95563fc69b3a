"""The audit: who did what to which execution, and who was refused. For the operator."""

import asyncio
import json
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from google.protobuf.json_format import MessageToDict

from runner_service.errors import UnauthenticatedError
from runner_service.identity import Caller, bare_id, current_caller
from runner_service.storage.audit import AuditStore
from runner_service.storage.event_log import LogError
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger("runner_service.audit")

_MAX_PENDING = 10_000
_MAX_TEXT_CHARACTERS = 1024
_UNKNOWN_INTERVAL_SECONDS = 10.0
_RETRY_DELAY_SECONDS = 1.0
_GATHERING_SECONDS = 0.02
"""Under load not each entry is a transaction of its own then, before that of the event log."""


class Audit:
    """Logs entries as lines of JSON, and hands them to the storage. Belongs to the event loop."""

    def __init__(self) -> None:
        self._pending: deque[runner_pb2.AuditEntry] = deque()
        self._lost = 0
        self._has_pending = asyncio.Event()
        self._unknown: Counter[str] = Counter()
        self.flushing = asyncio.Lock()
        """Locked while entries are stored."""

    def record(
        self,
        action: str,
        *,
        key: str = "",
        session: str = "",
        rpc: str = "",
        text: str = "",
        secret_names: Sequence[str] = (),
        caller: Caller | None = None,
    ) -> None:
        """Records what the current caller does; `key` and `session` are those of the execution."""
        caller = caller or current_caller.get(None)
        entry = runner_pb2.AuditEntry(
            action=action,
            caller=caller.message() if caller else None,
            execution_id=bare_id(key),
            session_id=bare_id(session),
            rpc=rpc,
            text=text[:_MAX_TEXT_CHARACTERS],
            secret_names=secret_names,
        )
        self._add(entry)

    def record_request(self, action: str, key: str, session: str, request: runner_pb2.ExecuteAgentRequest) -> None:
        """Records what is done with an execution, and which secrets its request gives it, by their names."""
        names = sorted(name for name, entry in request.environment.items() if entry.is_secret)
        self.record(action, key=key, session=session, secret_names=names)

    def count_unknown(self, error: UnauthenticatedError) -> None:
        """Counts the refusal of somebody who is not known: whoever reaches the port could fill the audit with them."""
        self._unknown[type(error).__name__] += 1

    async def run(self, store: AuditStore) -> None:
        """Stores what is recorded, until cancelled."""
        counted_at = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(_UNKNOWN_INTERVAL_SECONDS):
                    await self._has_pending.wait()
                    await asyncio.sleep(_GATHERING_SECONDS)
            except TimeoutError:
                pass
            if time.monotonic() - counted_at >= _UNKNOWN_INTERVAL_SECONDS:
                counted_at = time.monotonic()
                self._record_unknown()
            if not await self.flush(store):
                await asyncio.sleep(_RETRY_DELAY_SECONDS)

    async def flush(self, store: AuditStore) -> bool:
        """Stores what is pending. Returns whether the storage took it."""
        async with self.flushing:
            return await self._flush(store)

    async def _flush(self, store: AuditStore) -> bool:
        entries = list(self._pending)
        self._has_pending.clear()
        if not entries:
            return True
        try:
            await store.add([(each.caller.tenant, each.SerializeToString()) for each in entries])
        except LogError as error:
            logger.warning("audit_not_stored entries=%d reason=%s", len(entries), error)
            self._has_pending.set()
            return False
        for _ in entries:
            self._pending.popleft()
        if self._lost:
            logger.warning("audit_entries_lost count=%d", self._lost)
            self._lost = 0
        return True

    def _record_unknown(self) -> None:
        counts, self._unknown = self._unknown, Counter()
        for reason, count in counts.items():
            self._add(runner_pb2.AuditEntry(action="REFUSED_UNKNOWN", text=reason, count=count))

    def _add(self, entry: runner_pb2.AuditEntry) -> None:
        entry.create_time.FromNanoseconds(time.time_ns())
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s", json.dumps(MessageToDict(entry, preserving_proto_field_name=True)))
        if len(self._pending) >= _MAX_PENDING:
            self._lost += 1
            return
        self._pending.append(entry)
        self._has_pending.set()


@asynccontextmanager
async def running_audit(audit: Audit, store: AuditStore) -> AsyncIterator[None]:
    """Stores what is recorded until the context ends; then once more."""
    running = asyncio.create_task(audit.run(store), name="audit")
    try:
        yield
    finally:
        async with audit.flushing:  # or what is just being stored would be stored twice
            running.cancel()
        await asyncio.wait([running])
        await audit.flush(store)
