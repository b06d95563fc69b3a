"""Detects a supervisor that does not answer, such as one that a command has stopped."""

import asyncio
import logging
import os
import signal
from contextlib import suppress

from runner_service.executors.local.supervisor_client import SupervisorClient
from runner_service.executors.supervisor import process_table

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS = 1.0
_MAX_SILENT_INTERVALS = 10  # in each of which this loop has run: a service that is late itself blames nobody
_SILENT_INTERVALS_BEFORE_LOOK = 2


async def silence(client: SupervisorClient, pid: int) -> str:
    """Pings the supervisor until it must be killed; returns why.

    One that was stopped is continued once.
    """
    silent, was_continued = 0, False
    while True:
        heard = client.messages_received
        client.ping()
        await asyncio.sleep(_INTERVAL_SECONDS)
        silent = 0 if client.messages_received != heard else silent + 1
        if silent >= _SILENT_INTERVALS_BEFORE_LOOK and process_table.is_stopped(pid):
            if was_continued:
                return "it was stopped again by a signal"
            was_continued = True
            logger.warning("supervisor_stopped pid=%d action=continue", pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if silent >= _MAX_SILENT_INTERVALS:
            return f"it did not answer for {_MAX_SILENT_INTERVALS * _INTERVAL_SECONDS:g} s"


def kill_with_descendants(pid: int) -> None:
    """Kills a supervisor and all that it owns. Blocks."""
    for each in list(process_table.walk([pid])):
        process_table.send(each, signal.SIGKILL)
