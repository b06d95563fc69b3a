"""The moments between a look and a use, each made to happen: somebody is always quick enough."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runner_service.executors.local.deadline import Deadline, Search
from runner_service.executors.local.glob_search import glob_files
from runner_service.executors.local.paths import Root
from runner_service.executors.local.reading import list_directory, read_text
from runner_service.executors.local.write_recorder import WriteRecorder
from runner_service.executors.local.writing import Change, SeenFiles, write_text
from runner_service.executors.protocol import FileError


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "outside" / "sub").mkdir(parents=True)
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "root" / "real" / "sub").mkdir(parents=True)
    (tmp_path / "root" / "real" / "secret").write_text("harmless")
    return Root(str((tmp_path / "root").resolve()))


def after(monkeypatch: pytest.MonkeyPatch, function: str, name: str, change: Callable[[], object]) -> None:
    """Makes `change` happen once, right after the system was asked about `name`."""
    original = getattr(os, function)
    happened = False

    def asked(path: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal happened
        try:
            return original(path, *arguments, **options)
        finally:
            if path == name and not happened:
                happened = True
                change()

    monkeypatch.setattr(os, function, asked)


def swap_for_a_link(path: Path, target: Path) -> Callable[[], None]:
    def swap() -> None:
        path.rename(path.with_name("aside"))
        path.symlink_to(target)

    return swap


def swap_for_a_fifo(path: Path) -> Callable[[], None]:
    def swap() -> None:
        path.unlink()
        os.mkfifo(path)

    return swap


def test_a_directory_that_becomes_a_link_is_not_entered(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after(monkeypatch, "readlink", "real", swap_for_a_link(tmp_path / "root" / "real", tmp_path / "outside"))
    with pytest.raises(FileError):
        read_text(root, "real/secret", 0, 10, Deadline())


def test_a_file_that_becomes_a_link_is_not_opened(root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "root" / "real" / "secret"
    after(monkeypatch, "stat", "secret", swap_for_a_link(secret, tmp_path / "outside" / "secret"))
    with pytest.raises(FileError):
        read_text(root, "real/secret", 0, 10, Deadline())


def test_a_file_that_becomes_a_fifo_is_not_waited_for(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after(monkeypatch, "stat", "secret", swap_for_a_fifo(tmp_path / "root" / "real" / "secret"))
    with pytest.raises(FileError) as refused:
        read_text(root, "real/secret", 0, 10, Deadline())
    assert refused.value.code == "not_regular"


def test_a_listed_directory_that_becomes_a_link_is_not_listed(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after(monkeypatch, "stat", "real", swap_for_a_link(tmp_path / "root" / "real", tmp_path / "outside"))
    with pytest.raises(FileError):
        list_directory(root, "real", Deadline())


def test_a_written_file_that_becomes_a_link_is_not_followed(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "root" / "real" / "secret"
    after(monkeypatch, "access", "secret", swap_for_a_link(secret, tmp_path / "outside" / "secret"))
    with pytest.raises(FileError, match="changed while"):
        write_text(Change(root, "real/secret", Deadline(), SeenFiles(), "", WriteRecorder()), "new")
    assert (tmp_path / "outside" / "secret").read_text() == "secret"


def test_a_write_during_a_read_of_the_same_agent_makes_no_later_write_outdated(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Change(root, "real/secret", Deadline(), SeenFiles(), "", WriteRecorder())
    after(monkeypatch, "stat", "secret", lambda: write_text(change, "new"))
    change.record()  # as a read does at its beginning
    write_text(change, "newer")
    assert (tmp_path / "root" / "real" / "secret").read_text() == "newer"


def test_a_directory_that_is_moved_away_during_a_walk_leads_nowhere_else(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`..` goes back to the directory that was come from, wherever the other one has gone meanwhile."""
    away = tmp_path / "outside" / "moved"
    after(monkeypatch, "readlink", "sub", lambda: (tmp_path / "root" / "real").rename(away))
    with pytest.raises(FileError) as refused:
        read_text(root, "real/sub/../../secret", 0, 10, Deadline())
    assert refused.value.code == "not_found"


def test_a_directory_that_becomes_a_link_during_a_search_is_not_searched(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = swap_for_a_link(tmp_path / "root" / "real", tmp_path / "outside")
    original = os.scandir

    @contextmanager
    def listed(directory: int) -> Iterator[list[os.DirEntry[str]]]:
        with original(directory) as entries:
            found = list(entries)
        if not (tmp_path / "root" / "aside").exists():
            swap()
        yield found

    monkeypatch.setattr(os, "scandir", listed)
    assert f"{root.path}/real/secret" not in [entry.path for entry in glob_files(root, "*", "/", Search()).items]
