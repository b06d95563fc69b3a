"""The store of open activities survives the process, and keeps the newest attempt of each."""

import asyncio
import dataclasses
import sqlite3
from pathlib import Path

import pytest

from runner_service.storage.activities import OpenActivity
from runner_service.storage.event_log import LogError
from runner_service.storage.sqlite.activities import sqlite_activity_store

FIRST = OpenActivity("wf", "run", "1", "ExecuteAgent", b"token", "exe-1", 12.5, 1.0, b"request", "json/plain")


async def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    other = dataclasses.replace(FIRST, activity_id="2", task_token=b"other")
    async with sqlite_activity_store(tmp_path) as store:
        await asyncio.gather(store.add(FIRST), store.add(other))
        await store.remove(other)

    async with sqlite_activity_store(tmp_path) as store:
        assert list(await store.list_open()) == [FIRST]


async def test_a_later_attempt_takes_the_place_of_an_earlier_one_which_cannot_remove_it(tmp_path: Path) -> None:
    later = dataclasses.replace(FIRST, task_token=b"later")
    async with sqlite_activity_store(tmp_path) as store:
        await store.add(FIRST)
        await store.add(later)
        await store.remove(FIRST)

        assert list(await store.list_open()) == [later]


async def test_a_file_of_a_newer_service_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "activities.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(LogError, match="start the newer runner-service"):
        async with sqlite_activity_store(tmp_path):
            pass
