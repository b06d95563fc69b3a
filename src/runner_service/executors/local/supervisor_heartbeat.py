"""Detects a supervisor that does not answer, such as one that a command has stopped."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress

from runner_service.executors.local.supervisor_client import SupervisorClient
from runner_service.executors.supervisor import process_table

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS = 1.0
_MAX_SILENT_INTERVALS = 10  # in each of which this loop has run: a service that is late itself blames nobody
_SILENT_INTERVALS_BEFORE_LOOK = 2


async def until_lost(client: SupervisorClient, pids: Callable[[], Sequence[int]]) -> str:
    """Waits until the supervisor is gone, or has to be killed; returns why, or nothing when it is gone.

    `pids` gives the processes that it consists of. What was stopped of them is continued once.
    """
    silent = asyncio.create_task(_silence(client, pids), name="supervisor-heartbeat")
    lost = asyncio.create_task(client.lost.wait(), name="supervisor-lost")
    try:
        await asyncio.wait([silent, lost], return_when=asyncio.FIRST_COMPLETED)
        return "" if lost.done() else silent.result()
    finally:
        silent.cancel()
        lost.cancel()
        await asyncio.wait([silent, lost])


async def _silence(client: SupervisorClient, pids: Callable[[], Sequence[int]]) -> str:
    """Pings the supervisor until it must be killed; returns why."""
    silent, was_continued = 0, False
    while True:
        heard = client.messages_received
        client.ping()
        await asyncio.sleep(_INTERVAL_SECONDS)
        silent = 0 if client.messages_received != heard else silent + 1
        if silent >= _SILENT_INTERVALS_BEFORE_LOOK and (stopped := [*filter(process_table.is_stopped, pids())]):
            if was_continued:
                return "it was stopped again by a signal"
            was_continued = True
            logger.warning("supervisor_stopped pids=%s action=continue", ",".join(map(str, stopped)))
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        if silent >= _MAX_SILENT_INTERVALS:
            return f"it did not answer for {_MAX_SILENT_INTERVALS * _INTERVAL_SECONDS:g} s"


def kill_with_descendants(pid: int) -> None:
    """Kills a supervisor and all that it owns. Blocks."""
    for each in list(process_table.walk([pid])):
        process_table.send(each, signal.SIGKILL)
