"""How a replica attends to executions: its lease is renewed meanwhile, and it takes over several at once."""

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from runner_service.executions.readiness import Readiness
from runner_service.executions.takeover import Takeover
from runner_service.storage.event_log import LogError
from runner_service.storage.ownership import Letter, Replicas

BEATS = 5


class SlowReplicas:
    """A storage that does not answer what a replica asks about its executions."""

    name, lease_seconds, is_replicated = "r", 0.04, True

    def __init__(self) -> None:
        self.renewals = 0
        self.asked = asyncio.Event()
        self.renewed_since = asyncio.Event()

    async def reach(self) -> None:
        """Is reached at once."""

    async def beat(self) -> Sequence[str]:
        self.renewals += self.asked.is_set()
        if self.renewals >= BEATS:
            self.renewed_since.set()
        return ()

    async def letters(self, _: Mapping[str, int]) -> Mapping[str, Letter]:
        self.asked.set()
        await asyncio.Event().wait()
        return {}


class NoExecutions:
    def in_memory(self) -> Sequence[Any]:
        return ()

    async def lookup(self, _: object) -> Any:
        return SimpleNamespace(is_final=False)


async def test_a_lease_is_renewed_while_the_replica_waits_for_what_it_asked_about_its_executions() -> None:
    replicas = SlowReplicas()
    none: Any = NoExecutions()
    takeover = Takeover(none, none, none, none, none, cast(Replicas, replicas), readiness=Readiness(), reporter=none)
    running = asyncio.create_task(takeover.run())
    async with asyncio.timeout(60):
        await replicas.renewed_since.wait()
    running.cancel()
    await asyncio.wait([running])


class HandedOver(SlowReplicas):
    """A storage where other replicas have left executions."""

    def __init__(self, *execution_ids: str) -> None:
        super().__init__()
        self._left = list(execution_ids)
        self.owned: set[str] = set()

    async def letters(self, _: Mapping[str, int]) -> Mapping[str, Letter]:
        return {}

    async def attend(self, _: Sequence[str]) -> None:
        """Nobody asks."""

    async def handed_over(self) -> Sequence[str]:
        left, self._left = self._left, []
        self.owned |= set(left)
        return left

    async def owned_by(self) -> Sequence[str]:
        return sorted(self.owned)


class Takers:
    """Takes executions over, each as soon as it is told to."""

    def __init__(self) -> None:
        self.under_way: dict[str, asyncio.Future[None]] = {}
        self.changed = asyncio.Event()

    async def publish(self) -> None:
        """Reports nothing."""

    async def take_over(self, execution_id: object, *, anew: bool) -> None:
        del anew
        name = str(execution_id)
        self.under_way[name] = asyncio.get_running_loop().create_future()
        self.changed.set()
        await self.under_way[name]

    async def until(self, count: int) -> None:
        """Waits until so many are under way, or have been."""
        async with asyncio.timeout(60):
            while len(self.under_way) < count:
                self.changed.clear()
                await self.changed.wait()


def taking_over(replicas: HandedOver, takers: Takers) -> "asyncio.Task[None]":
    none, some, readiness = cast(Any, NoExecutions()), cast(Any, takers), Readiness()
    readiness.set_serving()
    takeover = Takeover(some, none, none, none, none, cast(Replicas, replicas), readiness=readiness, reporter=some)
    return asyncio.create_task(takeover.run())


async def test_some_executions_of_a_dead_replica_are_taken_over_at_once_and_no_more() -> None:
    takers = Takers()
    running = taking_over(HandedOver(*(f"e{number}" for number in range(40))), takers)
    await takers.until(16)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(takers.under_way) == 16
    takers.under_way["e7"].set_result(None)
    await takers.until(17)
    assert list(takers.under_way) == [f"e{number}" for number in range(17)]
    running.cancel()
    await asyncio.wait([running])


async def test_what_was_handed_over_is_taken_over_later_if_the_storage_fails_meanwhile() -> None:
    takers, replicas = Takers(), HandedOver("e0", "e1", "e2")
    running = taking_over(replicas, takers)
    await takers.until(3)
    before = dict(takers.under_way)
    takers.under_way.clear()
    replicas.owned.remove("e1")
    before["e0"].set_exception(LogError("away"))
    before["e1"].set_result(None)
    before["e2"].set_exception(LogError("away"))
    await takers.until(2)
    assert set(takers.under_way) == {"e0", "e2"}
    running.cancel()
    await asyncio.wait([running])
