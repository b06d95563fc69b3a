"""Whoever writes a file is killed in the middle of it."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from runner_service.executors.local import replacement, writing
from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.paths import Root
from runner_service.executors.local.replacement import Replacement
from runner_service.executors.local.write_recorder import WriteRecorder
from runner_service.executors.local.writing import Change, SeenFiles

WRITER = """
import sys, time
from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.paths import Root
from runner_service.executors.local.replacement import Replacement
from runner_service.executors.local.writing import Change, SeenFiles

with Replacement(Root(sys.argv[1]), "/file.txt") as replacement:
    replacement.write(b"new" * 100_000)
    print("written", flush=True)
    time.sleep(60)
    replacement.commit()
"""


def has_nameless_files(directory: Path) -> bool:
    try:
        os.close(os.open(directory, os.O_TMPFILE | os.O_WRONLY))
    except (OSError, AttributeError):
        return False
    return True


def contents(directory: Path) -> dict[str, str]:
    return {each.name: each.read_text() for each in directory.iterdir()}


async def test_a_writer_that_is_killed_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    if not has_nameless_files(tmp_path):
        pytest.skip("this file system has no files without a name")
    (tmp_path / "file.txt").write_text("old")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    assert await process.stdout.readline() == b"written\n"
    process.kill()
    await process.communicate()

    assert contents(tmp_path) == {"file.txt": "old"}


@pytest.mark.parametrize("nameless", [True, False])
def test_with_names_or_without_a_file_is_replaced_whole_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    if not nameless:
        monkeypatch.setattr(replacement, "_TMPFILE_FLAG", 0)
    (tmp_path / "old.txt").write_text("old")
    (tmp_path / "old.txt").chmod(0o640)
    root = Root(str(tmp_path.resolve()))

    writing.write_text(Change(root, "/old.txt", Deadline(), SeenFiles(), "", WriteRecorder()), "new")
    writing.write_text(Change(root, "/made/new.txt", Deadline(), SeenFiles(), "", WriteRecorder()), "new")
    with Replacement(root, "/old.txt") as never:
        never.write(b"never")

    assert sorted(each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*")) == [
        "made",
        "made/new.txt",
        "old.txt",
    ]
    assert (tmp_path / "old.txt").read_text() == (tmp_path / "made" / "new.txt").read_text() == "new"
    assert (tmp_path / "old.txt").stat().st_mode & 0o777 == 0o640
