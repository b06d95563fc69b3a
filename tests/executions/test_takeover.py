"""The lease of a replica is renewed however long the replica attends to its executions."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from runner_service.executions.readiness import Readiness
from runner_service.executions.takeover import Takeover
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


async def test_a_lease_is_renewed_while_the_replica_waits_for_what_it_asked_about_its_executions() -> None:
    replicas = SlowReplicas()
    none: Any = NoExecutions()
    takeover = Takeover(none, none, none, none, none, cast(Replicas, replicas), readiness=Readiness(), reporter=none)
    running = asyncio.create_task(takeover.run())
    async with asyncio.timeout(10):
        await replicas.renewed_since.wait()
    running.cancel()
    await asyncio.wait([running])
