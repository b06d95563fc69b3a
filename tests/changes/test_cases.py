"""Changes are found and taken back byte for byte in directories of every kind, whose own git is never touched."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.changes.cases import CASES, COMMAND, Case, metadata
from tests.changes.test_reverting import snapshot

from runner_service.executors.local.executor import LocalSandbox, local_executor
from runner_service.executors.local.tracking import LocalTracking
from runner_service.executors.protocol import Command, SandboxSpec, Stream
from runner_service.executors.tracking import FoundChange, Restoration


class Nowhere:
    async def write(self, stream: Stream, data: bytes) -> None:
        """Drops it."""


@asynccontextmanager
async def opened(root: Path, state_dir: Path) -> AsyncIterator[tuple[LocalSandbox, LocalTracking]]:
    async with (
        local_executor(root=root, state_dir=state_dir) as executor,
        executor.open(SandboxSpec("e")) as sandbox,
    ):
        tracking = sandbox.tracking
        assert tracking
        await tracking.begin()
        yield sandbox, tracking
        await tracking.end()


async def scanned(tracking: LocalTracking) -> list[FoundChange]:
    found: list[FoundChange] = []

    async def handle(change: FoundChange) -> None:
        found.append(change)

    await tracking.scan(handle)
    return found


async def put_back(found: list[FoundChange], root: Path, state_dir: Path) -> None:
    """Restores what is removed first, as a revert does."""
    async with (
        local_executor(root=root, state_dir=state_dir) as executor,
        executor.open_restorer(SandboxSpec("e"), executor.root_for(SandboxSpec("e"))) as restorer,
    ):
        for change in sorted(found, key=lambda each: (each.before is not None, -each.path.count("/"))):
            data = change.contents[change.before.sha256] if change.before else b""
            await restorer.restore([Restoration(change.path, change.after, change.before, data)])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_every_change_is_found_and_taken_back_byte_for_byte(case: Case, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    root = case.make(base)
    before, own = snapshot(root), metadata(base, case.repositories)
    async with opened(root, tmp_path / "state") as (sandbox, tracking):
        assert (await sandbox.run(Command(COMMAND, 20.0, Nowhere()))).exit_code == 0
        found = await scanned(tracking)
        assert await scanned(tracking) == []
    assert len(found) == case.expected
    await put_back(found, root, tmp_path / "state2")
    assert snapshot(root) == before
    assert metadata(base, case.repositories) == own
    assert {"hook-ran", "filter-ran"}.isdisjoint(os.listdir(tmp_path))  # noqa: PTH208  # pathlib would block as well
