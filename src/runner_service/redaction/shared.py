"""Secrets of executions whose commands can read each other's environment: each is redacted with those of the others."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from itertools import count

from runner_service.redaction import Redactor
from runner_service.redaction.matcher import Patterns

_MAX_DEPARTED = 200
_NOTHING = Patterns(())


class _Member:
    """An execution. `patterns` are those of the others, with its own."""

    def __init__(self, secrets: frozenset[str], joined: int, *, can_read: bool) -> None:
        self.secrets = secrets
        self.joined = joined
        self.can_read = can_read
        self.patterns = _NOTHING


class SharedSecrets:
    """The secrets of the executions of one tenant that run at the same time on one machine.

    What an execution may have read it may print later: the secrets of one that has left stay in force for as long as
    one that ran beside it stays. Belongs to the event loop.
    """

    def __init__(self) -> None:
        self._members: set[_Member] = set()
        self._counts: Counter[str] = Counter()
        self._departed: deque[tuple[int, frozenset[str]]] = deque(maxlen=_MAX_DEPARTED)
        self._numbers = count(1)
        self._lock = asyncio.Lock()
        self._built: frozenset[str] = frozenset()
        self._patterns = _NOTHING

    @asynccontextmanager
    async def joined(self, redactor: Redactor, secrets: Collection[str], *, can_read: bool) -> AsyncIterator[None]:
        """Shares `secrets` during the block, which begins when all that run redact them.

        If the execution `can_read` environments of others, its redactor finds their secrets too, also afterwards.
        """
        member = _Member(frozenset(secrets), next(self._numbers), can_read=can_read)
        self._members.add(member)
        self._counts.update(member.secrets)
        if can_read:
            redactor.share(member)
        try:
            await self._update()
            yield
        finally:
            self._leave(member)

    async def _update(self) -> None:
        """Makes all members redact what is shared now. One build serves all that have joined before it."""
        if not (self._counts or self._departed):
            return
        async with self._lock:
            wanted = frozenset(self._counts).union(*(secrets for _, secrets in self._departed))
            if not any(len(each.secrets) < len(wanted) for each in self._readers()):
                wanted = frozenset()
            if self._built != wanted:
                self._patterns = await asyncio.to_thread(Patterns.of, sorted(wanted))
                self._built = wanted
            for each in self._readers():
                each.patterns = _NOTHING if self._built <= each.secrets else self._patterns

    def _readers(self) -> list[_Member]:
        return [each for each in self._members if each.can_read]

    def _leave(self, member: _Member) -> None:
        self._members.remove(member)
        self._counts -= Counter(member.secrets)
        if member.secrets:
            self._departed.append((next(self._numbers), member.secrets))
        earliest = min((each.joined for each in self._readers()), default=None)
        while self._departed and (earliest is None or self._departed[0][0] < earliest):
            self._departed.popleft()
        if not self._members:
            self._built, self._patterns = frozenset(), _NOTHING
