"""One attempt of an activity, from its acceptance to its completion by task token, in this process or a later one."""

import asyncio
import logging
import time
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from runner_service import states
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
from runner_service.settings import Settings
from runner_service.storage.activities import ActivityStore, OpenActivity
from runner_service.storage.event_log import EventLog
from runner_service.temporal.connection import Connection
from runner_service.temporal.contracts import Contract
from runner_service.temporal.heartbeats import Heartbeats, Verdict
from runner_service.temporal.outcome import Outcome, read_outcome, refused
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

_PROBE_TIMEOUT_SECONDS = 2.0
_LAST_HEARTBEAT_TIMEOUT_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 10.0
_RPC_TIMEOUT = timedelta(seconds=10)
_FINAL_STATUSES = {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.PERMISSION_DENIED}
MARGIN_SHARE = 0.1
"""How much of an activity's time is kept to end its processes, to report, and to complete it."""

MAX_MARGIN_SECONDS = 10.0
"""The most time that is kept for that."""


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
        self._request = request
        self._is_resumed = is_resumed
        self._heartbeats = Heartbeats(services.connection, activity)
        self._end: ExecutionEnd | None = None
        self._end_requested = asyncio.Event()
        self._verdict: Verdict | None = None
        self._state = states.PENDING

    async def run(self) -> None:
        """Returns when the activity is completed, is no longer wanted, or the service stops. Raises nothing else."""
        try:
            if self._is_resumed:
                await self._probe()
            await self._run()
            await self._services.store.remove(self._activity)
        except* _HandedBack:
            await self._send_last_heartbeat()
            logger.info("activity_handed_back execution=%s", self._activity.execution_id)
        except* Exception:  # a bug in one attempt must not end the service or other attempts
            logger.exception("activity_failed execution=%s", self._activity.execution_id)

    async def _run(self) -> None:
        if self._is_dropped:
            return
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._heartbeats.run(lambda: states.state_name(self._state), self._on_verdict)),
                tasks.create_task(self._watch_deadline()),
            ]
            outcome = await self._follow_to_end(tasks)
            if outcome is not None:
                self._state = outcome.finished.finished.state
                await self._contract.settle(outcome)
                if self._verdict is None or self._verdict is Verdict.CANCELLED:
                    await self._complete(outcome)
            for each in background:
                each.cancel()

    @property
    def _is_dropped(self) -> bool:
        """True when the execution is to run on without this attempt."""
        if self._verdict is Verdict.SUPERSEDED and self._contract.has_retries:
            return True
        is_lost = self._verdict in {Verdict.LOST, Verdict.SUPERSEDED}
        return is_lost and self._services.settings.temporal_lost_attempt == "continue"

    async def _follow_to_end(self, tasks: asyncio.TaskGroup) -> Outcome | None:
        """Returns how the execution ended; None when it runs on without this attempt."""
        if self._end:
            found = await self._end_execution(self._end)
            return await self._follow() if found else refused(self._activity.execution_id, self._end)
        following = tasks.create_task(self._follow())
        requested = tasks.create_task(self._end_requested.wait())
        try:
            await asyncio.wait({following, requested}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done() and self._is_dropped:
                following.cancel()
                return None
            while not following.done() and self._end:
                if not await self._end_execution(self._end):  # it has not started yet
                    following.cancel()
                    await asyncio.wait({following})
                    if not await self._end_execution(self._end):
                        return refused(self._activity.execution_id, self._end)
                    following = tasks.create_task(self._follow())
                await asyncio.wait({following})
            return await following
        finally:
            requested.cancel()

    async def _follow(self) -> Outcome:
        """Starts, attaches to or resumes the execution, again while that is not possible, and waits for its end."""
        while True:
            try:
                async with self._services.executions.started_or_attached(self._request) as stream:
                    self._state = states.RUNNING
                    await stream.wait_finished()
                    return await read_outcome(self._services.log, stream)
            except UnavailableError as error:
                if self._services.readiness.stage is not Stage.SERVING:
                    raise _HandedBack from error
                logger.info("activity_waits execution=%s reason=%s", self._activity.execution_id, error)
                delay = error.retry_delay
            except CallError as error:
                logger.warning("activity_refused execution=%s reason=%s", self._activity.execution_id, error)
                return refused(self._activity.execution_id, error)
            await asyncio.sleep(delay)

    async def _end_execution(self, end: ExecutionEnd) -> bool:
        """Ends the execution; returns False if there is none."""
        try:
            await self._services.executions.end(self._activity.execution_id, end)
        except NotFoundError:
            return False
        return True

    async def _probe(self) -> None:
        """Finds out whether Temporal still wants an attempt of an earlier process, before anything is done for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PROBE_TIMEOUT_SECONDS):
                verdict = await self._heartbeats.send(states.state_name(self._state))
                if verdict is not None:
                    self._on_verdict(verdict)

    async def _send_last_heartbeat(self) -> None:
        """Gives the next process as much time as possible."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_HEARTBEAT_TIMEOUT_SECONDS):
                await self._heartbeats.send(states.state_name(states.INTERRUPTED))

    async def _watch_deadline(self) -> None:
        deadline = self._activity.deadline
        client = await self._services.connection.client()
        expiry = await _workflow_expiry(client, self._activity)
        if expiry is not None:
            deadline = min(deadline, expiry - margin_seconds(expiry - time.time()))
        seconds = max(0.0, deadline - time.time())
        await asyncio.sleep(seconds)
        self._request_end(TimedOutEnd("the time that the activity and its workflow allow is over"))

    def _on_verdict(self, verdict: Verdict) -> None:
        self._verdict = verdict
        match verdict:
            case Verdict.CANCELLED:
                self._request_end(CancelledEnd(f"cancelled: {verdict.value}"))
            case Verdict.TIMED_OUT:
                self._request_end(TimedOutEnd(verdict.value))
            case Verdict.LOST | Verdict.SUPERSEDED:
                self._request_end(InterruptedEnd(verdict.value))

    def _request_end(self, end: ExecutionEnd) -> None:
        self._end = self._end or end
        self._end_requested.set()

    async def _complete(self, outcome: Outcome) -> None:
        """Completes the activity, again until Temporal has taken it or does not want it."""
        delay = 0.2
        while True:
            client = await self._services.connection.client()
            handle = client.get_async_activity_handle(task_token=self._activity.task_token)
            try:
                is_wanted = self._verdict is Verdict.CANCELLED
                await self._contract.complete(handle, self._activity, outcome, cancel_requested=is_wanted)
            except RPCError as error:
                logger.info("activity_not_completed execution=%s reason=%s", self._activity.execution_id, error.message)
                if error.status in _FINAL_STATUSES:
                    return
            else:
                logger.info("activity_completed execution=%s", self._activity.execution_id)
                return
            await asyncio.sleep(delay)
            delay = min(2 * delay, _MAX_BACKOFF_SECONDS)


async def _workflow_expiry(client: Client, activity: OpenActivity) -> float | None:
    """Returns the Unix time at which the workflow times out; None if it does not, or Temporal does not say."""
    if not activity.workflow_id:
        return None
    handle = client.get_workflow_handle(activity.workflow_id, run_id=activity.run_id)
    try:
        description = (await handle.describe(rpc_timeout=_RPC_TIMEOUT)).raw_description
    except RPCError:
        return None
    timeout = description.execution_config.workflow_run_timeout
    if not timeout.ToNanoseconds():
        return None
    started = description.workflow_execution_info.start_time
    return started.ToNanoseconds() / 1e9 + timeout.ToNanoseconds() / 1e9


def margin_seconds(allowed_seconds: float) -> float:
    """Returns how long before its time-out an activity has to end."""
    return min(MAX_MARGIN_SECONDS, max(0.0, MARGIN_SHARE * allowed_seconds))
