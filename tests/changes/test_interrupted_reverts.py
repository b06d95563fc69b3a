"""A service that is killed while it puts files back completes that when it starts again."""

import asyncio
from pathlib import Path

import pytest
from tests.changes.repositories import repository
from tests.changes.test_reverting import BEFORE, COMMAND, listed, revert, snapshot
from tests.running import StartProcess, StartService, command, turn

from runner_service.changes.records import decode_all
from runner_service.changes.revert import changes_to_undo, encode_items, plan_revert
from runner_service.executions.reverting import PENDING_REVERT
from runner_service.executors.local.restoring import LocalRestorer
from runner_service.executors.local.threads import FileThreads
from runner_service.executors.tracking import Restoration
from runner_service.storage.event_log import NewValue
from runner_service.storage.sqlite.backend import sqlite_storage

FILES = 6


@pytest.mark.parametrize("done", range(FILES + 1))
async def test_a_revert_that_was_killed_after_some_files_is_completed(
    start: StartService, start_process: StartProcess, tmp_path: Path, done: int
) -> None:
    root = repository(tmp_path / "work", BEFORE)
    before = snapshot(root)
    turns = [turn("", command(COMMAND)), turn("done")]
    service = await start_process(turns, SANDBOX_ROOT_DIR=str(root))
    await service.client.execute(execution_id="e")
    after = snapshot(root)
    await service.kill()

    await _revert_partly(tmp_path / "state", root, done)
    assert (snapshot(root) == after) == (done == 0)

    client = await start(turns, SANDBOX_ROOT_DIR=str(root))
    assert snapshot(root) == before
    assert await listed(client, "e") == []
    await revert(client, "e", undo_revert=True)
    assert snapshot(root) == after


async def test_what_was_edited_after_the_kill_is_left_as_it_is(
    start: StartService, start_process: StartProcess, tmp_path: Path
) -> None:
    root = repository(tmp_path / "work", BEFORE)
    turns = [turn("", command(COMMAND)), turn("done")]
    service = await start_process(turns, SANDBOX_ROOT_DIR=str(root))
    await service.client.execute(execution_id="e")
    await service.kill()
    await _revert_partly(tmp_path / "state", root, 2)
    (root / "a.txt").write_text("the user's\n")
    await start(turns, SANDBOX_ROOT_DIR=str(root))
    assert (root / "a.txt").read_text() == "the user's\n"
    assert (root / "gone.txt").read_bytes() == BEFORE["gone.txt"]


async def test_a_service_that_is_killed_at_any_moment_of_a_revert_leaves_all_files_put_back_or_none(
    start: StartService, start_process: StartProcess, tmp_path: Path
) -> None:
    files = {f"f{number:03}": f"{number}\n".encode() for number in range(200)}
    root = repository(tmp_path / "work", files)
    before = snapshot(root)
    turns = [turn("", command("for each in f*; do echo x >> $each; done")), turn("done")]
    service = await start_process(turns, SANDBOX_ROOT_DIR=str(root))
    await service.client.execute(execution_id="e")
    reverting = asyncio.ensure_future(revert(service.client, "e"))
    async with asyncio.timeout(60):
        while not any(has(root / name, data) for name, data in files.items()) and not reverting.done():
            await asyncio.sleep(0)  # files tell nobody
    await service.kill()
    await asyncio.wait([reverting])
    reverting.exception()
    client = await start(turns, SANDBOX_ROOT_DIR=str(root))
    assert snapshot(root) == before
    assert await listed(client, "e") == []


def has(path: Path, data: bytes) -> bool:
    """Returns whether a file that is always there holds this."""
    return path.read_bytes() == data


async def _revert_partly(state_dir: Path, root: Path, done: int) -> None:
    """Does what a service does that is killed when it has put back some files."""
    async with sqlite_storage(state_dir) as storage:
        sets = decode_all(await storage.log.change_sets("e"))
        changes = changes_to_undo(sets, 0)
        restorer = LocalRestorer(str(root), FileThreads(1))
        now = await restorer.states([change.path for change in changes])
        present = {change.path: state for change, state in zip(changes, now, strict=True)}
        plan = plan_revert(changes, present, await storage.contents.names("e"))
        assert len(plan.items) == FILES
        await storage.log.append([NewValue("e", PENDING_REVERT, encode_items(plan.items))])
        for item in plan.items[:done]:
            data = await storage.contents.get("e", item.wanted.sha256) if item.wanted else b""
            await restorer.restore([Restoration(item.path, item.expected, item.wanted, data or b"")])
