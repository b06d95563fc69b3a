"""Several calls of one process go on with what it, or another one, has left: it is resumed once, and owned."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from tests.storage.shared_log import SharedLog, SharedOwnership, SharedStore

from runner_service import states
from runner_service.errors import CallError, PreconditionError, UnavailableError
from runner_service.events.writer import log_writer
from runner_service.executions.execution import Execution
from runner_service.executions.handover import Handover
from runner_service.executions.ownership import ExecutionOwnership
from runner_service.executions.registry import Registry
from runner_service.identity import OwnerKey
from runner_service.redaction import Redactor
from runner_service.storage.event_log import NewExecution
from runner_service.storage.ownership import Claim
from runner_service.storage.shared_queue import Taken
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

LEFT = OwnerKey("left")


class SlowOwnership(SharedOwnership):
    """Is asked for a first claim, and grants it once it is told to."""

    def __init__(self, store: SharedStore) -> None:
        super().__init__(store, "living")
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()

    async def claim(self, execution_id: str, *, anew: bool = False, token: int | None = None) -> Claim | None:
        if not self.asked.is_set():
            self.asked.set()
            await self.answers.wait()
        return await super().claim(execution_id, anew=anew, token=token)


class SlowRelease(SharedOwnership):
    """Gives executions up once it is told to."""

    def __init__(self, store: SharedStore, service: str) -> None:
        super().__init__(store, service)
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()

    async def release(
        self, execution_id: str, *, floor: int = 0, has_ended: bool = False, hands_over: bool = False
    ) -> None:
        self.asked.set()
        await self.answers.wait()
        await super().release(execution_id, floor=floor, has_ended=has_ended, hands_over=hands_over)


class Resuming:
    """Resumes executions, of which nothing runs, as `Resumer` does, and counts how often."""

    def __init__(self, registry: Registry, ownership: ExecutionOwnership) -> None:
        self._registry = registry
        self._ownership = ownership
        self.times = 0
        self.refusal: CallError | None = None

    async def resume(self, execution_id: OwnerKey) -> None:
        execution = await self._registry.find(execution_id)
        with self._registry.holding(execution):
            await asyncio.sleep(0)
            if self.refusal:
                raise self.refusal
            await self._ownership.require(execution)
            if execution.can_be_resumed:
                execution.requeue(Redactor([]))
                self.times += 1

    async def report_if_pending(self, _: Execution) -> None:
        """Nobody wants to know."""


class Process:
    """A process that finds an execution whose owner is dead."""

    def __init__(
        self, store: SharedStore, handover: Handover, claims: SlowOwnership, resuming: Resuming, token: int
    ) -> None:
        self.store = store
        self.handover = handover
        self.claims = claims
        self.resuming = resuming
        self.taken = Taken(LEFT, token, 0.0)


@asynccontextmanager
async def process(state: "event_pb2.State.ValueType") -> AsyncIterator[Process]:
    store = SharedStore()
    dead = await SharedOwnership(store, "dead").claim(LEFT)
    assert dead
    log = SharedLog(store, "living")
    request = runner_pb2.ExecuteAgentRequest(execution_id=LEFT, agent=runner_pb2.Agent(name="tester"))
    record = runner_pb2.Execution(execution_id=LEFT, state=state)
    await log.append([NewExecution(record, b"f", request)], {LEFT: dead.token})
    store.alive.remove("dead")
    claims = SlowOwnership(store)
    nothing = cast(Any, None)
    async with log_writer(log) as writer:
        registry = Registry(log, writer)
        ownership = ExecutionOwnership(log, claims, None, nothing)
        resuming = Resuming(registry, ownership)
        handover = Handover(registry, ownership, cast(Any, resuming), cast(Any, resuming))
        yield Process(store, handover, claims, resuming, dead.token)


async def settled() -> None:
    """Lets everything happen that waits for nothing outside of this process."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_what_the_queue_lets_go_on_keeps_its_place_while_its_owner_is_found_dead() -> None:
    async with process(states.RUNNING) as living:
        taking_over = asyncio.create_task(living.handover.take_over(LEFT))
        await living.claims.asked.wait()
        starting = asyncio.create_task(living.handover.start_taken(living.taken))
        await settled()
        assert not starting.done(), "once this returns, the queue gives the place of the execution up"
        living.claims.answers.set()
        await asyncio.gather(taking_over, starting)
        assert living.resuming.times == 1


async def test_what_a_caller_resumes_is_not_resumed_again_by_a_takeover_that_began_before() -> None:
    async with process(states.INTERRUPTED) as living:
        taking_over = asyncio.create_task(living.handover.take_over(LEFT))
        await living.claims.asked.wait()
        await living.resuming.resume(LEFT)
        assert living.resuming.times == 1
        living.claims.answers.set()
        await taking_over
        assert living.resuming.times == 1


@pytest.mark.parametrize("asks", ["takeover", "queue"])
async def test_what_is_not_resumed_for_a_reason_that_passes_is_handed_over_again(asks: str) -> None:
    """Otherwise nobody would know of it: the process stops, or is killed, before it tries again."""
    async with process(states.RUNNING) as living:
        living.claims.answers.set()
        living.resuming.refusal = UnavailableError("the service is stopping; call again")
        if asks == "queue":
            await living.handover.start_taken(living.taken)
        else:
            with pytest.raises(UnavailableError):
                await living.handover.take_over(LEFT)
        assert living.store.offered == {LEFT}
        assert not living.store.owners


async def test_what_can_never_be_resumed_is_left_to_its_callers() -> None:
    async with process(states.RUNNING) as living:
        living.claims.answers.set()
        living.resuming.refusal = PreconditionError("it had secrets")
        with pytest.raises(PreconditionError):
            await living.handover.take_over(LEFT)
        assert not living.store.offered
        assert not living.store.owners


async def test_what_is_decided_while_it_is_given_up_is_owned_again_afterwards() -> None:
    """That it waits for the decision is in the log a moment before it is given up."""
    store = SharedStore()
    claims, log = SlowRelease(store, "living"), SharedLog(store, "living")
    claim = await claims.claim(LEFT)
    assert claim
    record = runner_pb2.Execution(execution_id=LEFT, state=states.WAITING)
    await log.append([NewExecution(record, b"f", None)], {LEFT: claim.token})
    async with log_writer(log) as writer:
        execution = await Registry(log, writer).find(LEFT)
        ownership = ExecutionOwnership(log, claims, None, cast(Any, None))
        giving_up = asyncio.create_task(ownership.release(execution))
        await claims.asked.wait()
        owning = asyncio.create_task(ownership.require(execution))
        await settled()
        claims.answers.set()
        await asyncio.gather(giving_up, owning)
    assert store.owners == {LEFT: "living"}
