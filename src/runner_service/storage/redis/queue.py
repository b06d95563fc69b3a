"""The `QueueStore` in Redis: one script for all that happens to the queue, and a channel where it is announced."""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from runner_service import states
from runner_service.identity import tenant_of
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.following import Follower
from runner_service.storage.redis.keys import DeploymentKeys, ExecutionKeys
from runner_service.storage.redis.lua import Argument
from runner_service.storage.redis.reading import read_records
from runner_service.storage.shared_queue import Entrant, Outcome, QueueNews, QueueReply, QuotaOfTenant, Taken

_NO_LIMIT = -1
_INTERRUPTED_GRACE_SECONDS = 3.0
_OUTCOMES = {
    b"QUOTA": Outcome.QUOTA_EXCEEDED,
    b"FULL": Outcome.QUEUE_FULL,
    b"BEHIND": Outcome.BEHIND,
    b"GONE": Outcome.GONE,
}


class RedisQueue:
    """Implements `QueueStore` for the replica of that name."""

    def __init__(self, connection: Connection, keys: DeploymentKeys, replica: str, follower: Follower) -> None:
        self._connection = connection
        self._keys = keys
        self.replica = replica
        self._follower = follower

    async def join(self, entrant: Entrant, quota: QuotaOfTenant, *, capacity: int, max_queued: int) -> QueueReply:
        """Implements `QueueStore`."""
        return await self._run("join", capacity, *_described(entrant, quota), _limit(quota.queued), max_queued)

    async def offer(
        self, entrant: Entrant, quota: QuotaOfTenant, *, capacity: int, moves_to_end: bool = False
    ) -> QueueReply:
        """Implements `QueueStore`."""
        return await self._run("offer", capacity, *_described(entrant, quota), int(moves_to_end))

    async def leave(self, execution_id: str, *, capacity: int) -> QueueReply:
        """Implements `QueueStore`."""
        return await self._run("leave", capacity, execution_id)

    async def park(self, execution_id: str, *, capacity: int) -> QueueReply:
        """Implements `QueueStore`."""
        return await self._run("park", capacity, execution_id)

    async def interrupt(self, execution_id: str, *, capacity: int) -> QueueReply:
        """Implements `QueueStore`."""
        return await self._run("interrupt", capacity, execution_id)

    async def take(self, quotas: Mapping[str, QuotaOfTenant], *, capacity: int) -> QueueReply:
        """Implements `QueueStore`."""
        limits = {tenant: f"{_limit(quota.running)} {quota.weight}" for tenant, quota in quotas.items()}
        return await self._run("take", capacity, *(each for pair in limits.items() for each in pair))

    async def withdraw(self, execution_id: str) -> int | None:
        """Implements `QueueStore`."""
        token, _, _ = await self._call("withdraw", 0, execution_id)
        return int(token) if token else None

    async def correct(
        self, running: Collection[str], waiting: Collection[str], *, capacity: int, takes_over: bool
    ) -> tuple[QueueReply, Collection[str]]:
        """Implements `QueueStore`."""
        own = {**dict.fromkeys(waiting, "w"), **dict.fromkeys(running, "r")}
        pairs = (each for pair in own.items() for each in pair)
        answer, *reply = await self._call("correct", capacity, int(takes_over), *pairs)
        found = json.loads(answer)
        corrected = _reply(b"", *reply)
        if gone := await self._gone(dict(found["lost"])):
            dropped = await self._run("drop", capacity, *(each for pair in gone.items() for each in pair))
            corrected = dropped._replace(taken=[*corrected.taken, *dropped.taken])
        return corrected, list(found["missing"])

    async def restore(self, entrant: Entrant) -> None:
        """Implements `QueueStore`."""
        name = entrant.execution_id
        await self._call("restore", 0, name, tenant_of(name), entrant.session_id, entrant.token)

    def followed(self, observe: Callable[[QueueNews | None], None]) -> AbstractContextManager[None]:
        """Implements `QueueStore`."""
        return self._follower.listening(self._keys.queue, lambda data: observe(_news(data) if data else None))

    async def _run(self, action: str, capacity: int, *arguments: Argument) -> QueueReply:
        return _reply(*await self._call(action, capacity, *arguments))

    async def _call(self, action: str, capacity: int, *arguments: Argument) -> Sequence[Any]:
        keys = [self._keys.queue, self._keys.leases, self._keys.turns("")]
        reply: Sequence[Any] = await self._connection.script(
            "queue", keys, [action, self.replica, capacity, *arguments]
        )
        return reply

    async def _gone(self, tokens: Mapping[str, str]) -> Mapping[str, str]:
        """Returns those that have ended, were left INTERRUPTED, or never began, with their tokens.

        Those that nobody works on, since what was to take them failed, are handed over.
        """
        gone = {}
        records = await read_records(self._connection, list(tokens))
        for (name, token), stored in zip(tokens.items(), records, strict=True):
            record = ExecutionKeys(name).record
            if stored is None:
                is_gone = not await self._connection.call("EXISTS", record)
            else:
                state = stored.execution.execution.state
                is_left = states.is_interrupted(state) and time.time() - stored.changed > _INTERRUPTED_GRACE_SECONDS
                is_gone = states.is_final(state) or is_left
                if states.is_active(state) and not await self._connection.call("HEXISTS", record, "owner"):
                    await self._connection.call("SADD", self._keys.orphans, name)
            if is_gone:
                gone[name] = token
        return gone


def _described(entrant: Entrant, quota: QuotaOfTenant) -> Sequence[Argument]:
    name = entrant.execution_id
    place = (name, tenant_of(name), entrant.session_id, entrant.token, int(entrant.is_pinned))
    return (*place, _limit(quota.running), quota.weight)


def _reply(answer: bytes, queued: int, taken: Sequence[Any]) -> QueueReply:
    return QueueReply(
        queued,
        [Taken(name.decode(), int(token), waited_ms / 1000) for name, token, waited_ms in taken],
        _OUTCOMES.get(answer, Outcome.OK),
        int(answer) if answer.isdigit() else 0,
    )


def _news(data: bytes) -> QueueNews:
    told: Any = json.loads(data)
    return QueueNews(
        dict(told["gone"]),
        dict(told["positions"]),
        is_ready=told["ready"] > 0,
        queued=told["queued"],
    )


def _limit(limit: int | None) -> int:
    return _NO_LIMIT if limit is None else limit
