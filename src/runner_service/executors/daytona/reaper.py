"""Deletes execution sandboxes with an expired lease: their owner crashed."""

import asyncio
import logging
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from runner_service.executors.daytona.config import KIND, LEASE, OWNER
from runner_service.executors.daytona.manager import SandboxManager
from runner_service.executors.protocol import SandboxError

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

logger = logging.getLogger(__name__)

_LIST_TIMEOUT_SECONDS = 60.0


async def run_reaper(client: "AsyncDaytona", manager: SandboxManager, held: Collection[str]) -> None:
    """Reaps now and once per lease. `held` are the names of the sandboxes in use by this process."""
    while True:
        try:
            await reap_once(client, manager, held)
        except SandboxError as error:
            logger.warning("reaper_failed reason=%s", error)
        await asyncio.sleep(manager.config.lease)


async def reap_once(client: "AsyncDaytona", manager: SandboxManager, held: Collection[str]) -> None:
    """Reaps once. Lists are eventually consistent, so each sandbox is read by id before it is deleted."""
    for listed in await _listed(client, manager):
        if listed.name in held or not _is_abandoned(listed, manager.config.owner):
            continue
        sandbox = await manager.find(listed.id)
        if sandbox is not None and sandbox.name not in held and _is_abandoned(sandbox, manager.config.owner):
            logger.warning("sandbox_abandoned name=%s", sandbox.name)
            await manager.delete(sandbox.id)


async def _listed(client: "AsyncDaytona", manager: SandboxManager) -> "list[AsyncSandbox]":
    from daytona import ListSandboxesQuery  # noqa: PLC0415  # see `sdk`

    async def attempt() -> "list[AsyncSandbox]":
        query = ListSandboxesQuery(labels={OWNER: manager.config.owner, KIND: "execution"})
        return [sandbox async for sandbox in client.list(query, request_timeout=15.0)]

    return await manager.call(
        "the list of sandboxes",
        attempt,
        attempt_timeout=_LIST_TIMEOUT_SECONDS,
        total_timeout=2 * _LIST_TIMEOUT_SECONDS,
    )


def _is_abandoned(sandbox: "AsyncSandbox", owner: str) -> bool:
    """Whether it is an execution sandbox of ours with an expired lease. Without a lease label: false."""
    labels = sandbox.labels
    if labels.get(OWNER) != owner or labels.get(KIND) != "execution":
        return False
    try:
        return int(labels.get(LEASE, "")) < time.time()
    except ValueError:
        return False
