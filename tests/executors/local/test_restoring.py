"""Putting files back: what a command has left in the way leads nowhere."""

import asyncio
import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.executors.conftest import opened_locally

from runner_service.executors.protocol import FileError, SandboxSpec
from runner_service.executors.tracking import EXECUTABLE, SYMLINK, FileState, Restoration

DATA = b"echo taken over"
WANTED = FileState(EXECUTABLE, len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.mark.parametrize("expected", [None, WANTED])
async def test_a_file_is_not_put_back_through_a_link_that_took_the_place_of_its_directory(
    tmp_path: Path, expected: FileState | None
) -> None:
    """A hook would be put where git runs it, by a service that no cell keeps from it."""
    root = tmp_path / "root"
    (root / ".git" / "hooks").mkdir(parents=True)
    (root / "scripts").symlink_to(".git")
    async with (
        opened_locally(tmp_path) as executor,
        executor.open_restorer(SandboxSpec("e"), str(root)) as restorer,
    ):
        with pytest.raises(FileError) as refused:
            await restorer.restore([Restoration("scripts/hooks/post-commit", expected, WANTED, DATA)])
        assert refused.value.code == "changed"
        with pytest.raises(FileError):
            await restorer.restore([Restoration("scripts/made/for/it", None, WANTED, DATA)])
        await restorer.restore([Restoration("other/hooks/post-commit", None, WANTED, DATA)])
    assert [each.name for each in (root / ".git").rglob("*")] == ["hooks"]
    assert (root / "other" / "hooks" / "post-commit").read_bytes() == DATA


KILLED = """
import os, signal, sys
from runner_service.executors.local import restoring
from runner_service.executors.local.paths import Root
from runner_service.executors.tracking import FileState, Restoration

os.rename = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
root, kind, size, digest, data = sys.argv[1:]
wanted = FileState(kind, int(size), digest)
restoring._restore(Root(root, follows_links=False), Restoration("file", None, wanted, data.encode()))
"""


@pytest.mark.parametrize("kind", [EXECUTABLE, SYMLINK])
async def test_what_a_kill_left_of_a_file_goes_when_it_is_put_back(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    arguments = [str(root), kind, str(WANTED.size), WANTED.sha256, DATA.decode()]
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, *arguments)
    assert await killed.wait() == -signal.SIGKILL
    [left] = os.listdir(root)  # noqa: PTH208  # names alone
    assert left.endswith(".partial")
    async with (
        opened_locally(tmp_path) as executor,
        executor.open_restorer(SandboxSpec("e"), str(root)) as restorer,
    ):
        await restorer.restore([Restoration("file", None, FileState(kind, len(DATA), WANTED.sha256), DATA)])
    assert os.listdir(root) == ["file"]  # noqa: PTH208  # as above


@pytest.mark.parametrize("kind", [EXECUTABLE, SYMLINK])
async def test_a_directory_that_has_the_name_of_new_content_does_not_prevent_it(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    in_the_way = root / f".{hashlib.sha256(b'file').hexdigest()[:16]}.partial"
    (in_the_way / "full").mkdir(parents=True)
    async with (
        opened_locally(tmp_path) as executor,
        executor.open_restorer(SandboxSpec("e"), str(root)) as restorer,
    ):
        await restorer.restore([Restoration("file", None, FileState(kind, len(DATA), WANTED.sha256), DATA)])
    assert {each.name for each in root.iterdir()} == {"file", in_the_way.name}
