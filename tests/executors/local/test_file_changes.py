"""What only this machine can show of changes of files: mounts, names of the root, and crashes."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.executor import LocalSandbox, local_executor
from runner_service.executors.local.paths import Root
from runner_service.executors.local.replacement import Replacement, unfinished_name
from runner_service.executors.local.write_recorder import WriteRecorder
from runner_service.executors.local.writing import Change, SeenFiles, edit_text, write_text
from runner_service.executors.protocol import FileError, SandboxSpec


def edit(root: Root, path: str, old: str, new: str) -> int:
    return edit_text(Change(root, path, Deadline(), SeenFiles(), "", WriteRecorder()), old, new, replace_all=False)


def write(root: Root, path: str, text: str) -> None:
    write_text(Change(root, path, Deadline(), SeenFiles(), "", WriteRecorder()), text)


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file that is mounted over another one, as containers get their configuration."""
    source, target = tmp_path / "source.conf", tmp_path / "root" / "target.conf"
    target.parent.mkdir()
    source.write_text("old = 1\n")
    target.write_text("")
    if subprocess.run(["mount", "--bind", source, target], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    yield target
    subprocess.run(["umount", target], check=True)


def test_a_mounted_file_is_edited_in_place(mounted: Path) -> None:
    root = Root(str(mounted.parent.resolve()))
    edit(root, "/target.conf", "old = 1", "new = 2 and longer")
    write(root, "/target.conf", mounted.read_text() + "more\n")
    assert (mounted.parent.parent / "source.conf").read_text() == "new = 2 and longer\nmore\n"
    assert names(mounted.parent) == ["target.conf"]


def test_a_crash_while_a_file_is_written_in_place_loses_nothing_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "twin").hardlink_to(tmp_path / "a.txt")
    root = Root(str(tmp_path.resolve()))

    def crash(descriptor: int, size: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", crash)
        with pytest.raises(KeyboardInterrupt):
            write(root, "/a.txt", "new")
    with pytest.raises(FileError, match="was killed") as refused:
        edit(root, "/a.txt", "new", "newer")
    with root.locate("/a.txt") as place:
        copy = tmp_path / unfinished_name(place)
    assert str(copy) in refused.value.message
    assert copy.read_text() == "new"
    copy.unlink()
    edit(root, "/a.txt", "new", "newer")
    assert (tmp_path / "twin").read_text() == "newer"


def test_a_change_between_reading_and_writing_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    expected = (tmp_path / "a.txt").stat()
    with Replacement(Root(str(tmp_path.resolve())), "/a.txt") as replacement:
        replacement.write(b"edited")
        (tmp_path / "a.txt").write_text("by a command")
        with pytest.raises(FileError, match="changed meanwhile"):
            replacement.commit(expected)
    assert (tmp_path / "a.txt").read_text() == "by a command"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_writable_file_in_a_directory_that_is_not_is_written_in_place(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.txt").write_text("old")
    (tmp_path / "root" / "a.txt").chmod(0o666)
    for directory in (tmp_path, *tmp_path.parents):
        if directory != Path("/tmp"):  # every user can enter it
            directory.chmod(directory.stat().st_mode | 0o711)
    child = os.fork()
    if not child:
        try:
            os.setuid(65534)
            write(Root(str(tmp_path / "root")), "/a.txt", "new")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "root" / "a.txt").read_text() == "new"
    assert (tmp_path / "root" / "a.txt").stat().st_uid == 0


async def test_every_name_of_the_root_means_the_root(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "again").symlink_to(tmp_path / "link")
    async with (
        local_executor(root=tmp_path / "link", state_dir=tmp_path / "state") as executor,
        executor.open(SandboxSpec("one")) as sandbox,
    ):
        await _write_by_each_name(sandbox, tmp_path)
        assert names(tmp_path / "real") == ["again.txt", "inside", "link.txt", "real.txt"]
        found = await sandbox.glob(f"{tmp_path}/link/*.txt")
        assert [Path(each.path).name for each in found.items] == ["again.txt", "link.txt", "real.txt"]
        assert len((await sandbox.grep("text", f"{tmp_path}/again")).items) == 3


async def _write_by_each_name(sandbox: LocalSandbox, tmp_path: Path) -> None:
    for name in ("real", "link", "again"):
        await sandbox.write_text(f"{tmp_path}/{name}/{name}.txt", "text")
    (tmp_path / "real" / "inside").symlink_to(tmp_path / "link" / "real.txt")
    await sandbox.edit_text("/inside", "text", "text through a link by the root's other name")
    with pytest.raises(FileError):
        await sandbox.write_text(f"{tmp_path}/link/../outside.txt", "text")


def test_a_mount_of_the_root_means_the_root(tmp_path: Path) -> None:
    for name in ("real", "mounted"):
        (tmp_path / name).mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "--bind", tmp_path / "real", tmp_path / "mounted"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("this user may not mount")
    try:
        write(Root(str(tmp_path / "real")), f"{tmp_path}/mounted/a.txt", "text")
        assert names(tmp_path / "real") == ["a.txt"]
    finally:
        subprocess.run(["umount", tmp_path / "mounted"], check=True)
