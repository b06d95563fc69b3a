"""One attempt of an activity, from its acceptance to its completion by task token, in this process or a later one."""

import asyncio
import logging
import secrets
import time
from contextlib import suppress
from typing import NamedTuple

from temporalio.service import RPCError, RPCStatusCode

from runner_service.errors import (
    CallError,
    CancelledEnd,
    ExecutionEnd,
    InterruptedEnd,
    NotFoundError,
    TimedOutEnd,
    UnavailableError,
)
from runner_service.executions.readiness import Readiness, Stage
from runner_service.executions.service import ExecutionService
from runner_service.identity import TEMPORAL, Caller, OwnerKey, current_caller
from runner_service.retries import exponential_backoff, retry
from runner_service.settings import Settings
from runner_service.storage.activities import ActivityStore, OpenActivity
from runner_service.storage.event_log import EventLog
from runner_service.temporal.connection import Connection
from runner_service.temporal.contracts import Contract
from runner_service.temporal.deadline import workflow_deadline
from runner_service.temporal.heartbeats import Heartbeats, Verdict, handle_of
from runner_service.temporal.outcome import Outcome, read_outcome, refused
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

_PROBE_TIMEOUT_SECONDS = 2.0
_LAST_HEARTBEAT_TIMEOUT_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 10.0
_RETRY_DELAY_SECONDS = 1.0
_FINAL_STATUSES = {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.PERMISSION_DENIED}


class Services(NamedTuple):
    """What attempts work with."""

    settings: Settings
    executions: ExecutionService
    log: EventLog
    readiness: Readiness
    store: ActivityStore
    connection: Connection


class _HandedBack(Exception):  # noqa: N818  # it is not an error
    """The service is stopping: the next process goes on with the attempt."""


class Attempt:
    """Starts, attaches to or resumes an execution, keeps the activity alive meanwhile, and completes it."""

    def __init__(
        self,
        services: Services,
        contract: Contract,
        activity: OpenActivity,
        request: runner_pb2.ExecuteAgentRequest,
        *,
        is_resumed: bool,
    ) -> None:
        self._services = services
        self._contract = contract
        self._activity = activity
        self._execution_id = OwnerKey(activity.execution_id)
        self._request = request
        self._is_resumed = is_resumed
        self._heartbeats = Heartbeats(services.connection, activity)
        self._end: ExecutionEnd | None = None
        self._end_requested = asyncio.Event()
        self._verdict: Verdict | None = None

    async def run(self) -> None:
        """Returns when the activity is completed, is no longer wanted, or the service stops. Raises nothing else."""
        tenant = self._services.settings.stigmer_tenant
        current_caller.set(Caller(TEMPORAL, tenant, tenant))
        try:
            if self._is_resumed:
                await self._probe()
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(self._heartbeats.run(self._on_verdict)),
                    tasks.create_task(self._watch_deadline()),
                ]
                outcome = await self._follow_to_end(tasks)
                await self._contract.settle(outcome)
                if self._verdict in {None, Verdict.CANCELLED}:
                    await self._complete(outcome)
                for each in background:
                    each.cancel()
            await self._services.store.remove(self._activity)
        except* _HandedBack:
            await self._send_last_heartbeat()
            logger.info("activity_handed_back execution=%s", self._execution_id)
        except* Exception:  # a bug in one attempt must not end the service or other attempts
            logger.exception("activity_failed execution=%s", self._execution_id)

    async def _follow_to_end(self, tasks: asyncio.TaskGroup) -> Outcome:
        if self._end:  # the end of an earlier process's attempt was requested while it was not there
            found = await self._end_execution(self._end)
            return await self._follow() if found else refused(self._execution_id, self._end)
        following = tasks.create_task(self._follow())
        requested = tasks.create_task(self._end_requested.wait())
        await asyncio.wait({following, requested}, return_when=asyncio.FIRST_COMPLETED)
        requested.cancel()
        while not following.done() and self._end:
            if not await self._end_execution(self._end):  # it has not started yet
                following.cancel()
                await asyncio.wait({following})
                if not await self._end_execution(self._end):
                    return refused(self._execution_id, self._end)
                following = tasks.create_task(self._follow())
            await asyncio.wait({following})
        return await following

    async def _follow(self) -> Outcome:
        """Starts, attaches to or resumes the execution, again while that is not possible, and waits for its end."""
        while True:
            try:
                async with self._services.executions.started_or_attached(self._request) as stream:
                    await stream.wait_finished()
                    return await read_outcome(self._services.log, stream)
            except UnavailableError as error:
                if self._services.readiness.stage is not Stage.SERVING:
                    raise _HandedBack from error
                logger.info("activity_waits execution=%s reason=%s", self._execution_id, error)
                delay = error.retry_delay
            except CallError as error:
                logger.warning("activity_refused execution=%s reason=%s", self._execution_id, error)
                return refused(self._execution_id, error)
            except Exception:
                error_id = secrets.token_hex(4)
                logger.exception("activity_refused execution=%s error_id=%s", self._execution_id, error_id)
                text = f"internal error of the service; its log has the details under error_id={error_id}"
                return refused(self._execution_id, ExecutionEnd(text))
            await asyncio.sleep(delay)

    async def _end_execution(self, end: ExecutionEnd) -> bool:
        """Ends the execution; returns False if there is none."""
        while True:
            try:
                await self._services.executions.end(self._execution_id, end)
            except NotFoundError:
                return False
            except UnavailableError as error:
                logger.warning("activity_not_ended execution=%s reason=%s", self._execution_id, error)
                await asyncio.sleep(_RETRY_DELAY_SECONDS)
            else:
                return True

    async def _probe(self) -> None:
        """Finds out whether Temporal still wants an attempt of an earlier process, before anything is done for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PROBE_TIMEOUT_SECONDS):
                if verdict := await self._heartbeats.send():
                    self._on_verdict(verdict)

    async def _send_last_heartbeat(self) -> None:
        """Gives the next process as much time as possible."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_HEARTBEAT_TIMEOUT_SECONDS):
                await self._heartbeats.send()

    async def _watch_deadline(self) -> None:
        """Ends the execution shortly before the time of the activity or its workflow is over."""
        deadline = self._activity.deadline
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - time.time())):
                client = await self._services.connection.client()
                deadline = min(deadline, await workflow_deadline(client, self._activity))
        await asyncio.sleep(max(0.0, deadline - time.time()))
        if self._verdict is None:
            self._request_end(TimedOutEnd("the time that the activity and its workflow allow is over"))

    def _on_verdict(self, verdict: Verdict) -> None:
        self._verdict = verdict
        text = f"Temporal: {verdict.value}"
        match verdict:
            case Verdict.CANCELLED:
                self._request_end(CancelledEnd(text))
            case Verdict.TIMED_OUT:
                self._request_end(TimedOutEnd(text))
            case Verdict.SUPERSEDED if self._contract.has_retries:
                pass  # the next attempt attaches
            case _ if self._services.settings.temporal_lost_attempt == "fail":
                self._request_end(InterruptedEnd(text))

    def _request_end(self, end: ExecutionEnd) -> None:
        self._end = self._end or end
        self._end_requested.set()

    async def _complete(self, outcome: Outcome) -> None:
        """Completes the activity, again until Temporal has taken it or does not want it."""

        def delay_after(error: Exception, attempt: int) -> float | None:
            if not isinstance(error, RPCError):
                return None
            logger.info("activity_not_completed execution=%s reason=%s", self._execution_id, error.message)
            if error.status in _FINAL_STATUSES:
                return None
            return exponential_backoff(attempt, initial=_RETRY_DELAY_SECONDS, maximum=_MAX_BACKOFF_SECONDS)

        async def complete() -> None:
            handle = handle_of(await self._services.connection.client(), self._activity)
            is_cancelled = self._verdict is Verdict.CANCELLED
            await self._contract.complete(handle, self._activity, outcome, cancel_requested=is_cancelled)

        with suppress(RPCError):
            await retry(complete, delay_after)
            logger.info("activity_completed execution=%s", self._execution_id)
