"""Whether anything is left that should not be: processes, rows, files."""

import asyncio
import sqlite3
from collections.abc import Set as AbstractSet
from contextlib import closing

from tests.chaos.lives import Life, Lives

_GONE_WITHIN = 5.0
_CLEAN_WITHIN = 10.0


async def check_nothing_runs_of_before(every_life: Lives, life: Life | None) -> None:
    """Checks that no process of an earlier life is there; without `life`, none at all."""
    try:
        async with asyncio.timeout(_GONE_WITHIN):
            while _older(every_life, life):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"still there: {_older(every_life, life)}") from None


def _older(every_life: Lives, life: Life | None) -> list[object]:
    return [each for each in every_life.processes() if life is None or each.create_time() < life.began]


async def check_left_clean(every_life: Lives, sessions: AbstractSet[str]) -> None:
    """Checks what is in the state directory and the workspace when every execution has ended."""
    try:
        async with asyncio.timeout(_CLEAN_WITHIN):
            while _kept(every_life, sessions):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"kept for executions that have ended: {_kept(every_life, sessions)}") from None
    partial = [path.name for path in every_life.workspace.rglob("*") if path.name.endswith(".partial")]
    assert not partial, f"in the workspace: {partial}"
    names = {path.name.removesuffix("-wal").removesuffix("-shm") for path in every_life.state.iterdir()}
    assert names <= {"events.db", "checkpoints.db", "outputs", "lock", "agents", "supervisor.json", "service.json"}


def check_no_defects(every_life: Lives) -> None:
    """Checks that no service met with anything that it did not expect."""
    lines = every_life.log.read_text().splitlines()
    strange = [each for each in lines if (" ERROR " in each or "Traceback" in each) and "supervisor_lost" not in each]
    assert not strange, "\n".join(strange)


def _kept(every_life: Lives, sessions: AbstractSet[str]) -> list[str]:
    with closing(sqlite3.connect(every_life.state / "checkpoints.db")) as connection:
        kept = [f"journal of {name}" for (name,) in connection.execute("SELECT DISTINCT execution_id FROM journal")]
        for table in ("checkpoints", "writes"):
            query = f"SELECT DISTINCT thread_id FROM {table}"  # one of two constants
            kept += [f"{table} of {name}" for (name,) in connection.execute(query)]
    agents = every_life.state / "agents"
    kept += [f"files of {path.name}" for path in agents.iterdir()] if agents.exists() else []
    return [each for each in kept if each.partition(" of thread-")[2] not in sessions]
