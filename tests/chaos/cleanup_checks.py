"""Checks for leaked processes, rows and files."""

import asyncio
import sqlite3
from collections.abc import Set as AbstractSet
from contextlib import closing

from tests.chaos.services import Service, Services

_PROCESSES_GONE_TIMEOUT_SECONDS = 30.0
_CLEANUP_TIMEOUT_SECONDS = 30.0
_LASTING = {
    "agents",
    "checkpoints.db",
    "confinement-probe",
    "contents",
    "events.db",
    "lock",
    "outputs",
    "private",
    "reserve",
    "scans",
    "service.json",
    "supervisor.json",
}
"""What may stand in a state directory when no execution runs."""


async def check_no_earlier_processes(services: Services, service: Service | None) -> None:
    """Checks that no process of an earlier service runs; with None, that none runs at all."""
    try:
        async with asyncio.timeout(_PROCESSES_GONE_TIMEOUT_SECONDS):
            while _earlier_processes(services, service):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"still there: {_earlier_processes(services, service)}") from None


def _earlier_processes(services: Services, service: Service | None) -> list[object]:
    return [each for each in services.processes() if service is None or each.create_time() < service.began]


async def check_state_is_clean(services: Services, sessions: AbstractSet[str]) -> None:
    """Checks the state directory and the workspace when every execution has ended."""
    try:
        async with asyncio.timeout(_CLEANUP_TIMEOUT_SECONDS):
            while _kept(services, sessions):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"kept for executions that have ended: {_kept(services, sessions)}") from None
    partial = [path.name for path in services.workspace.rglob("*") if path.name.endswith(".partial")]
    assert not partial, f"in the workspace: {partial}"
    names = {path.name.removesuffix("-wal").removesuffix("-shm") for path in services.state.iterdir()}
    assert names <= _LASTING, f"in the state directory: {names - _LASTING}"


def check_no_errors_logged(services: Services) -> None:
    """Checks that no service has logged an unexpected error."""
    lines = services.log.read_text().splitlines()
    unexpected = [
        each for each in lines if (" ERROR " in each or "Traceback" in each) and "supervisor_lost" not in each
    ]
    assert not unexpected, "\n".join(unexpected)


def _kept(services: Services, sessions: AbstractSet[str]) -> list[str]:
    with closing(sqlite3.connect(services.state / "events.db")) as connection:
        query = "SELECT DISTINCT execution_id FROM executions JOIN journal ON journal.execution = executions.key"
        kept = [f"journal of {name}" for (name,) in connection.execute(query)]
    with closing(sqlite3.connect(services.state / "checkpoints.db")) as connection:
        for table in ("checkpoints", "writes"):
            query = f"SELECT DISTINCT thread_id FROM {table}"  # one of two constants
            kept += [f"{table} of {name}" for (name,) in connection.execute(query)]
    for directory in (services.state / "agents", services.state / "scans"):
        kept += [f"{directory.name} of {path.name}" for path in directory.iterdir()] if directory.exists() else []
    return [each for each in kept if each.partition(" of thread-")[2] not in sessions]
