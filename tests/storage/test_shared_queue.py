"""The one queue of all replicas, as each of them uses it: who takes what, in which order, and what is never lost."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.scale.redis_server import redis_server
from tests.storage.test_conformance import IN_REDIS, SERVERS
from tests.storage.test_tenant_stores import address_of, shared

from runner_service import states
from runner_service.executions.queue import ExecutionQueue
from runner_service.executions.tenant_limits import TenantLimits, Tenants
from runner_service.identity import tenant_of
from runner_service.storage.event_log import NewExecution
from runner_service.storage.redis.backend import RedisStorage
from runner_service.storage.shared_queue import Entrant, Outcome, QueueNews, QueueReply, QuotaOfTenant
from runner_service.v1 import agent_runner_pb2 as runner_pb2

UNLIMITED = QuotaOfTenant(None, None, 1)


class Replica:
    """The queue of one replica; `running` is what it has taken."""

    def __init__(self, storage: RedisStorage) -> None:
        self.storage = storage
        self.queue = storage.replicas.queue
        self.capacity = 0
        self.running: list[str] = []
        self.tokens: dict[str, int] = {}

    async def join(
        self, name: str, quota: QuotaOfTenant = UNLIMITED, *, session: str = "", max_queued: int = 1000, token: int = 1
    ) -> Outcome:
        entrant = Entrant(name, session, token, is_pinned=False)
        return self._took(await self.queue.join(entrant, quota, capacity=self.capacity, max_queued=max_queued)).outcome

    async def offer(
        self, name: str, quota: QuotaOfTenant = UNLIMITED, *, session: str = "", token: int = 1, **fields: Any
    ) -> QueueReply:
        entrant = Entrant(name, session, token, fields.pop("is_pinned", False))
        return self._took(await self.queue.offer(entrant, quota, capacity=self.capacity, **fields))

    async def take(self, quotas: dict[str, QuotaOfTenant] | None = None) -> None:
        self._took(await self.queue.take(quotas or {}, capacity=self.capacity))

    async def leave(self, name: str) -> None:
        self.running.remove(name)
        self._took(await self.queue.leave(name, capacity=self.capacity))

    async def correct(self, running: Collection[str] | None = None, waiting: Collection[str] = ()) -> Collection[str]:
        own = self.running if running is None else running
        reply, missing = await self.queue.correct(own, waiting, capacity=self.capacity, takes_over=True)
        self._took(reply)
        return missing

    def _took(self, reply: QueueReply) -> QueueReply:
        self.running += [each.execution_id for each in reply.taken]
        self.tokens |= {each.execution_id: each.token for each in reply.taken}
        return reply


@pytest.fixture(params=IN_REDIS)
async def replicas(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as parts:
        server = await parts.enter_async_context(redis_server(tmp_path, program=SERVERS[request.param]))
        yield [Replica(await parts.enter_async_context(shared(address_of(server)))) for _ in range(3)]


async def test_replicas_that_take_at_once_never_take_the_same_and_keep_the_order(replicas: list[Replica]) -> None:
    names = [f"e{number}" for number in range(60)]
    for number, name in enumerate(names):
        await replicas[number % 3].offer(name)
    for each in replicas:
        each.capacity = 10
    await asyncio.gather(*(each.take() for each in replicas for _ in range(5)))
    assert sorted(name for each in replicas for name in each.running) == sorted(names[:30])
    for each in replicas:
        assert len(each.running) == 10
        assert each.running == [name for name in names if name in each.running]
    for name in list(replicas[1].running):
        await replicas[1].leave(name)
    assert replicas[1].running == names[30:40]


async def test_tenants_take_turns_as_in_the_queue_of_one_process(replicas: list[Replica]) -> None:
    weights = {"default": 1, "acme": 3, "globex": 2}
    chosen = random.Random(7)
    arrivals = [f"{chosen.choice(['', 'acme~', 'globex~'])}e{number}" for number in range(60)]
    local = ExecutionQueue(
        max_running=1,
        max_queued=99,
        tenants=Tenants({name: TenantLimits(weight=weight) for name, weight in weights.items()}),
    )
    slots = {name: local.enqueue("", lambda _: None, name) for name in arrivals}
    expected = []
    while running := next((name for name, slot in slots.items() if slot.is_admitted), None):
        expected.append(running)
        slots.pop(running).release()
    one = replicas[0]
    one.capacity = 1
    for number, name in enumerate(arrivals):
        await replicas[number % 3].offer(name, QuotaOfTenant(None, None, weights[tenant_of(name)]))
    await one.take()
    found = []
    while one.running:
        found += one.running
        await one.leave(one.running[0])
    assert found == expected


async def test_quotas_and_the_length_of_the_queue_count_what_all_replicas_have(replicas: list[Replica]) -> None:
    for each in replicas:
        each.capacity = 20
    acme = QuotaOfTenant(running=4, queued=6, weight=1)
    names = [f"acme~{number}" for number in range(90)]
    outcomes = await asyncio.gather(*(replicas[number % 3].join(name, acme) for number, name in enumerate(names)))
    assert outcomes.count(Outcome.OK) == 10
    assert outcomes.count(Outcome.QUOTA_EXCEEDED) == 80
    assert sum(len(each.running) for each in replicas) == 4
    running = {name for each in replicas for name in each.running}
    for number, name in enumerate(names):
        if outcomes[number] is Outcome.OK and name not in running:
            await replicas[number % 3].offer(name, acme)
    assert sum(len(each.running) for each in replicas) == 4
    assert await replicas[0].join("globex~1") is Outcome.OK
    assert "globex~1" in replicas[0].running, "another tenant's do not count"
    await replicas[2].take({"acme": QuotaOfTenant(running=7, queued=6, weight=1)})
    assert sum(len(each.running) for each in replicas) == 8, "the quota was raised"

    for each in replicas:
        each.capacity = 1
        await each.take()
    assert await replicas[1].join("e1", max_queued=3) is Outcome.QUEUE_FULL
    replicas[2].capacity = 50
    await replicas[2].take()
    assert await replicas[1].join("e1", max_queued=3) is Outcome.OK, "another replica has room"


async def test_executions_of_a_session_run_one_at_a_time_in_the_order_of_their_acceptance(
    replicas: list[Replica],
) -> None:
    one, two, three = replicas
    for each in replicas:
        each.capacity = 5
    none_queued = QuotaOfTenant(running=5, queued=0, weight=1)
    assert await one.join("first", none_queued, session="chat") is Outcome.OK
    assert await two.join("refused", none_queued, session="chat") is Outcome.QUOTA_EXCEEDED
    assert await two.join("second", session="chat") is Outcome.OK
    assert (await two.offer("second", session="chat")).outcome is Outcome.BEHIND
    assert (await three.offer("third", session="chat")).outcome is Outcome.BEHIND
    assert (await three.queue.park("first", capacity=0)).queued == 2
    assert (one.running, two.running, three.running) == (["first"], [], [])
    await one.queue.park("first", capacity=5)
    assert not (await one.queue.take({}, capacity=5)).taken, "a parked one holds back its session"
    await one.leave("first")
    assert one.running == ["second"]
    await one.leave("second")
    assert one.running == ["third"]


async def test_one_whose_secrets_only_its_replica_has_waits_for_that_replica(replicas: list[Replica]) -> None:
    one, two, _ = replicas
    await one.offer("pinned", is_pinned=True)
    await two.offer("free")
    two.capacity = 5
    await two.take()
    assert two.running == ["free"]
    one.capacity = 5
    await one.take()
    assert one.running == ["pinned"]


async def test_what_is_repeated_because_its_answer_was_lost_changes_nothing(replicas: list[Replica]) -> None:
    one, two, _ = replicas
    one.capacity = 1
    for _ in range(2):
        assert await one.join("first") is Outcome.OK
    assert one.running == ["first", "first"]
    for _ in range(2):
        assert await one.join("second") is Outcome.OK
        assert (await one.offer("second")).position == 1
    assert (await one.offer("third")).position == 2
    assert (await two.offer("second", token=2)).position == 1, "who has taken it over offers it in its old place"
    assert (await one.offer("second")).outcome is Outcome.GONE
    two.capacity = 1
    await two.take()
    assert two.tokens == {"second": 2}
    for _ in range(2):
        assert (await one.queue.leave("first", capacity=0)).queued == 1
    assert (await one.queue.leave("second", capacity=0)).queued == 1, "it gives up nothing of another replica"
    two.running.clear()
    await two.correct([])
    assert two.running == ["second"], "what it was given and did not learn of"


async def test_what_a_dead_replica_was_running_makes_room_and_waits_in_its_old_place(replicas: list[Replica]) -> None:
    one, two, _ = replicas
    alone = QuotaOfTenant(running=1, queued=9, weight=1)
    one.capacity = two.capacity = 1
    await one.join("acme~first", alone, session="acme~chat")
    await two.offer("acme~second", alone)
    await two.offer("acme~third", alone, session="acme~chat")
    await one.storage.replicas.leave()
    await two.queue.correct([], [], capacity=1, takes_over=False)
    assert two.running == [], "it may look dead only because Redis was away"
    await two.correct()
    assert two.running == ["acme~first"]
    await two.leave("acme~first")
    assert two.running == ["acme~second"]
    await two.leave("acme~second")
    assert two.running == ["acme~third"]


async def test_what_has_ended_without_leaving_is_removed_and_what_was_lost_is_restored(
    replicas: list[Replica],
) -> None:
    one, two, _ = replicas
    one.capacity = two.capacity = 1
    await one.join("first", session="chat")
    await two.offer("second", session="chat")
    ended = runner_pb2.Execution(execution_id="first", state=states.SUCCEEDED)
    await one.storage.log.append([NewExecution(ended, b"")])
    await one.storage.replicas.leave()
    await two.correct()
    assert two.running.pop() == "first", "it does not know yet that there is nothing to go on with"
    await two.queue.interrupt("first", capacity=1)
    await two.correct()
    assert two.running == ["second"]
    assert (await two.offer("third")).position == 1
    assert not await two.correct(waiting=["third"])
    await two.storage.connection.call("HDEL", two.storage.keys.queue, "second", "third")
    assert set(await two.correct(waiting=["third"])) == {"second", "third"}
    await two.queue.restore(Entrant("second", "chat", 1, is_pinned=False))
    assert not await two.correct()
    assert two.running == ["second"]


async def test_one_that_is_withdrawn_is_taken_by_nobody(replicas: list[Replica]) -> None:
    one, two, three = replicas
    news: list[QueueNews] = []
    is_subscribed = asyncio.Event()
    with one.queue.followed(lambda each: news.append(each) if each else is_subscribed.set()):
        async with asyncio.timeout(60):
            await is_subscribed.wait()
        await one.offer("first")
        await two.offer("second", token=7)
        await two.offer("third")
        assert await three.queue.withdraw("second") == 7
        assert await three.queue.withdraw("second") is None
        one.capacity = 5
        await one.take()
        assert one.running == ["first", "third"]
        assert await three.queue.withdraw("first") is None, "it runs"
        async with asyncio.timeout(60):
            while "third" not in {name for each in news for name in each.gone}:
                await asyncio.sleep(0.01)
    assert [each.gone for each in news if "second" in each.gone] == [{"second": three.queue.replica}]
    assert {"third": 2} in [each.positions for each in news]
    assert news[-1].queued == 0

    record = runner_pb2.Execution(execution_id="second", state=states.PENDING)
    await two.storage.log.append([NewExecution(record, b"")])
    await two.correct()
    assert list(await one.storage.replicas.handed_over()) == ["second"], "nobody has ended it"


async def test_whoever_takes_an_execution_claims_it_from_a_living_owner_once(replicas: list[Replica]) -> None:
    one, two, three = (each.storage.ownership for each in replicas)
    queued = await one.claim("e")
    assert queued
    assert await two.claim("e") is None
    claims = await asyncio.gather(*(each.claim("e", token=queued.token) for each in (two, three)))
    (claim,) = filter(None, claims)
    assert claim.token > queued.token
    assert await one.claim("e", token=queued.token) is None
    await one.release("e")
    assert await one.claim("e") is None, "a release is about one's own"
