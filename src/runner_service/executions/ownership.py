"""Which executions this process owns: claims them before it changes them, and releases them when it is done.

Of several replicas one owns an execution at a time; without replicas every claim succeeds.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from runner_service import states
from runner_service.errors import NotFoundError, UnavailableError
from runner_service.executions.execution import Execution
from runner_service.identity import OwnerKey, bare_id
from runner_service.storage.event_log import EventLog, LogError
from runner_service.storage.ownership import Ownership, Replicas
from runner_service.storage.queue import Queue

logger = logging.getLogger(__name__)


def started_elsewhere(execution_id: OwnerKey) -> UnavailableError:
    """Returns the error for an execution that another process has claimed in this moment."""
    return UnavailableError(f"execution {bare_id(execution_id)} was just started elsewhere; attach again")


class ExecutionOwnership:
    """Belongs to the event loop."""

    def __init__(self, log: EventLog, claims: Ownership, replicas: Replicas | None, queue: Queue) -> None:
        self._log = log
        self._claims = claims
        self._replicas = replicas
        self._queue = queue
        self._releases: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Locked while a claim is given up."""

    async def own(self, execution: Execution, *, anew: bool = False, token: int | None = None) -> bool:
        """Makes this process the owner of an execution that is not active; False if another one is. Raises LogError.

        `anew` and `token` are as of `Ownership.claim`.
        """
        if not execution.is_remote:
            return True
        return await self.take_over(execution, anew=anew, token=token) or not execution.is_remote

    async def take_over(self, execution: Execution, *, anew: bool = False, token: int | None = None) -> bool:
        """Makes this process the owner of what another one has left, as `own` does.

        False also if this process has become the owner meanwhile: another call goes on with it.
        """
        if release := self._releases.get(execution.id):  # which would give up the new claim, too
            async with release:
                pass
        claim = await self._claims.claim(execution.id, anew=anew, token=token)
        if claim is None:
            return False
        stored = await self._log.get(execution.id)
        if stored is None:
            raise NotFoundError(f"execution {execution.id} was deleted")
        if not execution.is_remote:
            return False
        execution.take_over(claim.token, stored)
        return True

    async def require(self, execution: Execution) -> None:
        """Makes this process the owner of an execution that is not active. Raises UnavailableError, LogError."""
        if not await self.own(execution):
            raise started_elsewhere(execution.id)

    async def take_over_abandoned(self, execution: Execution) -> bool:
        """Does as `take_over` if the process that has claimed an execution is gone. Raises LogError."""
        return bool(await self._claims.abandoned([execution.id])) and await self.take_over(execution)

    async def own_to_end(self, execution: Execution) -> bool:
        """Makes this process the one that ends an execution, which leaves the queue; False if another one has it.

        Raises LogError.
        """
        if execution.is_final:
            return True
        if states.is_pending(execution.state) and (execution.is_remote or execution.is_queued):
            token = await self._queue.withdraw(execution.id)
            if token is not None:
                return await self.own(execution, token=token)
            if execution.is_queued:  # another process has taken it in this moment
                return False
        return await self.own(execution)

    @asynccontextmanager
    async def owning(self, execution: Execution) -> AsyncIterator[None]:
        """Makes this process the owner of an execution at rest, ended or not, for what is appended in the block.

        Raises:
            UnavailableError: another process is the owner.
            LogError: the log cannot be read.
        """
        if self._replicas is None:
            yield
            return
        execution.stream.is_remote = True  # what has ended is nobody's
        if not await self.own(execution):
            raise UnavailableError(f"execution {execution.name} is in use at another replica: call again")
        try:
            yield
        finally:
            await self.release(execution)

    async def release(self, execution: Execution, *, hands_over: bool = False) -> None:
        """Gives up an execution that does not run here any more; offers it to other replicas if it `hands_over`."""
        if execution.is_active or execution.stream.is_fenced:
            return
        execution.stream.is_remote = not execution.is_final
        try:
            async with self._releases.setdefault(execution.id, asyncio.Lock()):
                await self._claims.release(
                    execution.id,
                    floor=execution.claim_floor,
                    has_ended=execution.is_final,
                    hands_over=hands_over and execution.can_be_resumed,
                )
        except LogError as error:  # the end of the lease does it
            logger.warning("release_failed execution=%s error=%s", execution.id, error)

    async def pass_on(self, execution: Execution) -> None:
        """Gives up an execution that another replica has taken out of the queue; those who watch it here go on."""
        logger.info("execution_passed_on execution=%s", execution.id)
        try:
            if self._replicas and execution.callers:
                await self._replicas.attend([execution.id])
            await self._claims.release(execution.id)
        except LogError as error:  # the new owner's claim has done it
            logger.warning("release_failed execution=%s error=%s", execution.id, error)
