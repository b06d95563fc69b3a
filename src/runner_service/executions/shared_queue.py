"""The queue of one replica of several: a limit on how many it runs, and the turns of sessions over all replicas."""

import asyncio
import contextlib
import logging
from types import TracebackType

from runner_service.events.notifier import Notifier
from runner_service.executions.queue import ExecutionQueue
from runner_service.executions.queue import Slot as LocalSlot
from runner_service.executions.shared_tenants import SharedTenants
from runner_service.executions.tenant_limits import Tenants
from runner_service.identity import bare_id, tenant_of
from runner_service.storage.event_log import LogError
from runner_service.storage.ownership import Replicas
from runner_service.storage.queue import Notify
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

_POLL_INTERVAL_SECONDS = 0.25
_MAX_LEAVE_POLLS = 100


class SharedSlot:
    """The place of one execution: behind others of its session, then in the queue of this replica."""

    def __init__(self, queue: "SharedQueue", session_id: str, execution_id: str, notify: Notify) -> None:
        self._queue = queue
        self._session_id = session_id
        self._execution_id = execution_id
        self._notify = notify
        self._local: LocalSlot | None = None if session_id else queue.local.enqueue("", notify, execution_id)
        self._is_parked = False

    @property
    def is_admitted(self) -> bool:
        """True once the execution may run."""
        return self._local is not None and self._local.is_admitted and not self._local.is_provisional

    async def admitted(self) -> None:
        """Waits until the execution may run."""
        if self._local is None:
            await self._first_of_session()
            self._local = self._queue.local.enqueue("", self._notify, self._execution_id)
        while True:
            await self._local.provisionally_admitted()
            if await self._queue.tenants.admit(self._execution_id) or not self._local.is_provisional:
                self._local.confirm()
                return
            self._local.stand_aside()

    def park(self) -> None:
        """Makes room for others, but not for those of the same session."""
        self._is_parked = True
        if self._local:
            self._local.park()
        self._queue.leave_tenant(self._execution_id)

    def unpark(self) -> "SharedSlot":
        """Returns a slot that takes the place of this parked one."""
        return SharedSlot(self._queue, self._session_id, self._execution_id, self._notify)

    def release(self) -> None:
        """Leaves the queue or, if admitted, makes room."""
        if self._local and not self._is_parked:
            self._local.release()
        self._queue.leave_tenant(self._execution_id)
        if self._session_id:
            self._queue.leave(self._session_id, self._execution_id)

    async def _first_of_session(self) -> None:
        is_told = False
        while not await self._queue.is_first(self._session_id, self._execution_id):
            if not is_told:
                is_told = True
                text = f"waits for another execution of session {bare_id(self._session_id)} to end"
                self._notify(event_pb2.Notice(level=event_pb2.Notice.LEVEL_INFO, code="SESSION_BUSY", text=text))
            await self._queue.left.wait(_POLL_INTERVAL_SECONDS)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_parked:
            self.release()


class SharedQueue:
    """Implements `Queue`. `local` counts what this replica runs, `tenants` what tenants have in all of them."""

    def __init__(self, local: ExecutionQueue, replicas: Replicas, tenants: Tenants) -> None:
        self.local = local
        self.tenants = SharedTenants(tenants, replicas.tenant_slots)
        local.asks_others = self.tenants.are_limited
        self.left = Notifier()
        """Notifies when an execution of this replica gives its turn up."""
        self._turns = replicas.turns
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """How many are admitted."""
        return self.local.running

    @property
    def queued(self) -> int:
        """How many wait for room in this replica."""
        return self.local.queued

    async def require_room(self, session_id: str, tenant: str) -> None:
        """Implements `Queue`. What this replica alone has is enough to refuse; `join` asks the others."""
        del session_id
        await self.local.require_room("", tenant)

    async def join(self, session_id: str, execution_id: str) -> None:
        """Implements `Queue`."""
        await self.tenants.join(execution_id, session_id, has_room=self.local.has_room)
        try:
            if session_id:
                await self._turns.join(session_id, execution_id)
        except BaseException:
            self.leave_tenant(execution_id)
            raise

    def enqueue(self, session_id: str, notify: Notify, execution_id: str = "") -> SharedSlot:
        """Implements `Queue`."""
        return SharedSlot(self, session_id, execution_id, notify)

    def reserve(self, session_id: str, notify: Notify, execution_id: str = "") -> SharedSlot:
        """Implements `Queue`. Never called: the turns of sessions outlive replicas."""
        raise NotImplementedError

    async def correct_forever(self) -> None:
        """Implements `Queue`."""
        await self.tenants.correct_forever()

    def close(self) -> None:
        """Implements `Queue`."""
        self.local.close()

    async def is_first(self, session_id: str, execution_id: str) -> bool:
        """Tells whether it is an execution's turn. While the storage is away it is nobody's."""
        with contextlib.suppress(LogError):
            return await self._turns.is_first(session_id, execution_id)
        return False

    def leave_tenant(self, execution_id: str) -> None:
        """Counts an execution no more among those of its tenant."""
        self.tenants.leave(execution_id, lambda: self.local.retry(tenant_of(execution_id)))

    def leave(self, session_id: str, execution_id: str) -> None:
        """Gives up the turn of an execution, in the background."""
        task = asyncio.create_task(self._leave(session_id, execution_id), name=f"turn-of-{execution_id}")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, session_id: str, execution_id: str) -> None:
        """Gives up a turn once the log has the end; an execution that another replica goes on with keeps it."""
        for _ in range(_MAX_LEAVE_POLLS):
            try:
                if await self._turns.leave(session_id, execution_id):
                    self.left.notify_all()
                    return
            except LogError as error:  # whoever waits finds that it has ended
                logger.warning("turn_not_given_up execution=%s error=%s", execution_id, error)
                return
            await asyncio.sleep(_POLL_INTERVAL_SECONDS / 5)
