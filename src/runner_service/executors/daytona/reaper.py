"""Deletes sandboxes of executions and of warm pools with an expired lease: their service crashed."""

import asyncio
import logging
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from runner_service.executors.daytona.config import KIND, LEASE, OWNER
from runner_service.executors.daytona.manager import SandboxManager
from runner_service.executors.protocol import SandboxError

if TYPE_CHECKING:
    from daytona import AsyncSandbox

logger = logging.getLogger(__name__)

_KINDS = ("execution", "warm")


async def run_reaper(manager: SandboxManager, held: Collection[str]) -> None:
    """Reaps now and once per lease. `held` are the names of the sandboxes in use by this process."""
    while True:
        try:
            await reap_once(manager, held)
        except SandboxError as error:
            logger.warning("reaper_failed reason=%s", error)
        await asyncio.sleep(manager.config.lease)


async def reap_once(manager: SandboxManager, held: Collection[str]) -> None:
    """Reaps once. Lists are eventually consistent, so each sandbox is read by id before it is deleted."""
    for listed in [each for kind in _KINDS for each in await manager.list_by_labels({KIND: kind})]:
        if listed.name in held or not _is_abandoned(listed, manager.config.owner):
            continue
        sandbox = await manager.find(listed.id)
        if sandbox is not None and sandbox.name not in held and _is_abandoned(sandbox, manager.config.owner):
            logger.warning("sandbox_abandoned name=%s", sandbox.name)
            await manager.delete(sandbox.id)


def _is_abandoned(sandbox: "AsyncSandbox", owner: str) -> bool:
    """Whether it is a sandbox of ours that no session keeps, with an expired lease. Without a lease label: false."""
    labels = sandbox.labels
    if labels.get(OWNER) != owner or labels.get(KIND) not in _KINDS:
        return False
    try:
        return int(labels.get(LEASE, "")) < time.time()
    except ValueError:
        return False
