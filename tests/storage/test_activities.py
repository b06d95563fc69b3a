"""The store of open activities survives the process, and keeps the newest attempt of each."""

import asyncio
import dataclasses
import sqlite3
from pathlib import Path

import pytest

from runner_service.storage.activities import AnnouncedWorkflow, OpenActivity
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


async def test_an_announcement_is_withdrawn_by_the_activity_that_it_announces(tmp_path: Path) -> None:
    announced, other = AnnouncedWorkflow("wf", "run"), AnnouncedWorkflow("wf", "another run")
    async with sqlite_activity_store(tmp_path) as store:
        for each in (announced, announced, other):
            await store.announce(each)

    async with sqlite_activity_store(tmp_path) as store:
        await store.add(FIRST)
        assert list(await store.list_announced()) == [other]
        await store.withdraw(other)
        assert not await store.list_announced()


async def test_attempts_without_a_token_are_removed_one_by_one(tmp_path: Path) -> None:
    one, other = (dataclasses.replace(FIRST, activity_id=each, task_token=b"") for each in "12")
    async with sqlite_activity_store(tmp_path) as store:
        await asyncio.gather(store.add(one), store.add(other))
        await store.remove(one)

        assert list(await store.list_open()) == [other]


async def test_each_start_has_an_identity_that_tells_earlier_ones_of_the_same_store(tmp_path: Path) -> None:
    async with sqlite_activity_store(tmp_path) as store:
        first = await store.new_identity()
    async with sqlite_activity_store(tmp_path) as store:
        second = await store.new_identity()
    (tmp_path / "other").mkdir()
    async with sqlite_activity_store(tmp_path / "other") as store:
        another = await store.new_identity()

    assert second.is_later_than(str(first))
    others = (str(second), str(another), f"{first}/1", "1234@host", "/1", "", f"runner-service-{first.name}/x")
    assert not any(second.is_later_than(each) for each in others)
    assert not first.is_later_than(str(second))


async def test_a_file_of_a_newer_service_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "activities.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(LogError, match="start the newer runner-service"):
        async with sqlite_activity_store(tmp_path):
            pass
