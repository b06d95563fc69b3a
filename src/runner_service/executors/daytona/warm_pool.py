"""Sandboxes that are started before anybody asks for one, with the attendant installed."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from runner_service.executors.daytona.config import SandboxRef
from runner_service.executors.daytona.deletions import Deletions
from runner_service.executors.daytona.manager import SandboxManager
from runner_service.executors.protocol import SandboxError

if TYPE_CHECKING:
    from daytona import AsyncSandbox

logger = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 4
_FAILURE_BACKOFF_SECONDS = 30.0


class WarmPool:
    """Keeps `size` sandboxes for this process alone, which renews their leases; others reap them when it has crashed.

    `prepare` installs the attendant in a new one.
    """

    def __init__(
        self,
        manager: SandboxManager,
        deletions: Deletions,
        size: int,
        prepare: Callable[["AsyncSandbox"], Awaitable[None]],
    ) -> None:
        self._manager = manager
        self._deletions = deletions
        self._size = size
        self._prepare = prepare
        self._ready: deque[AsyncSandbox] = deque()
        self._names: set[str] = set()
        self._wanted = asyncio.Event()

    def __len__(self) -> int:
        """Returns how many are ready."""
        return len(self._ready)

    async def claim(self, ref: SandboxRef) -> "AsyncSandbox | None":
        """Returns a sandbox that now belongs to a session or execution; None if none is ready or it is gone."""
        while self._ready:
            sandbox = self._ready.popleft()
            self._wanted.set()
            try:
                await self._manager.claim(sandbox, ref)
            except SandboxError as error:
                logger.warning("warm_sandbox_lost name=%s reason=%s", sandbox.name, error)
                continue
            finally:
                self._names.discard(sandbox.name)
            logger.info("warm_sandbox_claimed name=%s left=%d", sandbox.name, len(self._ready))
            return sandbox
        return None

    async def run(self) -> None:
        """Fills the pool and renews the leases, until cancelled; then begins to delete what is in it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._fill())
                tasks.create_task(self._renew())
        finally:
            for name in list(self._names):
                self._delete(name)

    async def _fill(self) -> None:
        while True:
            self._wanted.clear()
            while len(self._ready) < self._size:
                if not await self._add():
                    await asyncio.sleep(_FAILURE_BACKOFF_SECONDS)
            await self._wanted.wait()

    async def _add(self) -> bool:
        ref = SandboxRef(f"{self._manager.config.owner}-warm-{secrets.token_hex(8)}", "warm")
        self._names.add(ref.name)
        try:
            sandbox, _ = await self._manager.obtain(ref, lambda code, text: None)  # noqa: ARG005  # nobody waits for it
            await self._prepare(sandbox)
        except SandboxError as error:
            logger.warning("warm_sandbox_failed reason=%s", error)
            self._delete(ref.name)
            return False
        self._ready.append(sandbox)
        return True

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._manager.config.lease / _RENEWALS_PER_LEASE)
            for sandbox in list(self._ready):
                try:
                    await self._manager.renew_lease(sandbox)
                except SandboxError as error:
                    logger.warning("warm_sandbox_lost name=%s reason=%s", sandbox.name, error)
                    if sandbox in self._ready:
                        self._ready.remove(sandbox)
                        self._delete(sandbox.name)
                        self._wanted.set()

    def _delete(self, name: str) -> None:
        self._names.discard(name)
        self._deletions.begin(name)
