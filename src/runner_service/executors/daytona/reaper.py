"""Deletes boxes of executions that nobody holds any more: their lease has ended, so who had them has crashed."""

import asyncio
import logging
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from runner_service.executors.daytona.retries import CallFailedError, patiently
from runner_service.executors.daytona.sandboxes import KIND, LEASE, OWNER, Boxes
from runner_service.executors.protocol import SandboxError

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

logger = logging.getLogger(__name__)

_LIST_WITHIN = 60.0


async def reap_for_ever(client: "AsyncDaytona", boxes: Boxes, held: Collection[str]) -> None:
    """Looks now and once per lease. `held` are the names of the boxes that this process works with."""
    while True:
        try:
            await reap(client, boxes, held)
        except SandboxError as error:
            logger.warning("reaper_failed reason=%s", error)
        await asyncio.sleep(boxes.terms.lease)


async def reap(client: "AsyncDaytona", boxes: Boxes, held: Collection[str]) -> None:
    """Looks once. The list may be old, so each box is asked for by its id before anything is done to it."""
    for listed in await _listed(client, boxes):
        if listed.name in held or not _is_abandoned(listed, boxes.terms.owner):
            continue
        box = await boxes.find(listed.id)
        if box is not None and box.name not in held and _is_abandoned(box, boxes.terms.owner):
            logger.warning("box_abandoned name=%s", box.name)
            await boxes.discard(box.id)


async def _listed(client: "AsyncDaytona", boxes: Boxes) -> "list[AsyncSandbox]":
    from daytona import ListSandboxesQuery  # noqa: PLC0415  # see `sdk`

    async def attempt() -> "list[AsyncSandbox]":
        query = ListSandboxesQuery(labels={OWNER: boxes.terms.owner, KIND: "execution"})
        return [box async for box in client.list(query, request_timeout=15.0)]

    try:
        return await patiently("the list of sandboxes", attempt, each=_LIST_WITHIN, altogether=2 * _LIST_WITHIN)
    except CallFailedError as error:
        raise SandboxError(str(error)) from None


def _is_abandoned(box: "AsyncSandbox", owner: str) -> bool:
    """Says whether it is ours, of an execution, and its lease has ended. A box without a lease is nobody's business."""
    labels = box.labels
    if labels.get(OWNER) != owner or labels.get(KIND) != "execution":
        return False
    try:
        return int(labels.get(LEASE, "")) < time.time()
    except ValueError:
        return False
