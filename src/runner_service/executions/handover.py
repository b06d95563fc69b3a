"""Goes on here with executions of other replicas: those that wait in the queue of all, and those of dead replicas."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from runner_service.errors import CallError, UnavailableError
from runner_service.executions.daemon_requests import DaemonRequests
from runner_service.executions.execution import Execution
from runner_service.executions.ownership import ExecutionOwnership
from runner_service.executions.registry import Registry
from runner_service.executions.resumer import Resumer
from runner_service.identity import OwnerKey
from runner_service.storage.event_log import LogError
from runner_service.storage.shared_queue import Taken
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)


class Handover:
    """Belongs to the event loop."""

    def __init__(
        self,
        registry: Registry,
        ownership: ExecutionOwnership,
        resumer: Resumer,
        requests: DaemonRequests,
    ) -> None:
        self._registry = registry
        self._ownership = ownership
        self._resumer = resumer
        self._requests = requests
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def take_over(self, execution_id: OwnerKey, *, anew: bool = False) -> None:
        """Resumes an execution whose process is gone; one that cannot be resumed is left INTERRUPTED.

        `anew`: also one that this process owns, but does not work on.

        Raises:
            CallError: as of `ExecutionService.started_or_attached`.
        """
        async with self._remote(execution_id) as execution:
            if execution and await self._ownership.take_over(execution, anew=anew):
                await self._go_on(execution)

    async def start_taken(self, taken: Taken) -> None:
        """Starts an execution that this process has taken out of the queue, and another one may have accepted.

        One that cannot be started here is left to others. Raises LogError: call again.
        """
        async with self._remote(OwnerKey(taken.execution_id)) as execution:
            if execution is None:
                return
            is_own = await self._ownership.take_over(execution, token=taken.token)
            if not is_own and not await self._ownership.take_over_abandoned(execution):  # who took it before lives
                return
            execution.has_callers_elsewhere = True  # until the replica that accepted it says that they have left
            try:
                await self._go_on(execution)
            except LogError:
                raise
            except CallError as error:
                logger.warning("taken_not_started execution=%s reason=%s", execution.id, error)

    @asynccontextmanager
    async def _remote(self, execution_id: OwnerKey) -> AsyncIterator[Execution | None]:
        """Finds an execution that has not ended and is not this process's, for one caller at a time.

        Its owner may be found dead at the same time in which the queue lets it go on, and who has it from the queue
        gives up its place there unless it has begun here.
        """
        lock = self._locks.setdefault(execution_id, asyncio.Lock())
        async with lock:
            execution = await self._registry.lookup(execution_id)
            if execution is None or execution.is_final or not execution.is_remote:
                yield None
                return
            with self._registry.holding(execution):
                yield execution

    async def _go_on(self, execution: Execution) -> None:
        """Resumes what another process has left. Raises CallError; then it is left INTERRUPTED.

        It is handed over again if this process is the reason, or one that passes.
        """
        hands_over = False
        if execution.is_active:
            execution.mark_interrupted()
        try:
            if execution.can_be_resumed:
                logger.info("execution_taken_over execution=%s", execution.id)
                await self._resumer.resume(execution.id)
                await self._requests.report_if_pending(execution)
                # It depends on its callers as before, at whichever replica they are.
                execution.policy = runner_pb2.DISCONNECT_POLICY_CANCEL
        except UnavailableError:
            hands_over = True
            raise
        finally:
            await self._ownership.release(execution, hands_over=hands_over)
