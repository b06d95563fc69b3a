"""What tracking costs is bounded; beyond, the reason is told, and nothing is put back that is not known as a whole."""

import json
import os
import shutil
from pathlib import Path

import grpc
import pytest
from tests.changes.repositories import repository, write
from tests.changes.test_reverting import listed, revert
from tests.changes.test_tracking import changes, notices
from tests.running import StartService, command, turn

from runner_service.executors.local.scanner import git_tracker, walk_tracker
from runner_service.executors.local.scanner import main as scanner
from runner_service.executors.local.scanner.changes import Limits, NotTrackedError, Place
from runner_service.executors.local.scanner.git_tracker import GitTracker
from runner_service.executors.local.scanner.walk_tracker import WalkTracker

FILES = {f"f{number}": b"12345678" for number in range(5)}


def tracker(kind: str, place: Place, limits: Limits) -> GitTracker | WalkTracker:
    os.makedirs(place.directory)  # noqa: PTH103  # a string
    return WalkTracker(place, limits) if kind == "walk" else GitTracker(shutil.which("git") or "", place, limits)


@pytest.fixture(params=["git", "walk"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_files=4), "it holds 5 files, and up to 4 are tracked"),
        (Limits(max_new_files=4), "5 of its files are in no commit, and up to 4 are tracked"),
        (Limits(max_new_bytes=39), "0 MiB of it are in no commit"),
    ],
    ids=["files", "new files", "new bytes"],
)
def test_a_directory_that_holds_too_much_is_not_tracked(tmp_path: Path, kind: str, limits: Limits, reason: str) -> None:
    write(tmp_path / "work", FILES)
    tracked = tracker(kind, Place(str(tmp_path / "work"), str(tmp_path / "scan"), skips_hidden=False), limits)
    with pytest.raises(NotTrackedError, match=reason):
        tracked.remember()


def test_what_is_in_a_commit_does_not_count_as_new(tmp_path: Path) -> None:
    root = repository(tmp_path / "work", FILES)
    limits = Limits(max_new_files=0, max_new_bytes=0)
    place = Place(str(root), str(tmp_path / "scan"), skips_hidden=False)
    assert tracker("git", place, limits).remember() == 5


def test_a_directory_that_grows_too_large_is_not_tracked_any_more(tmp_path: Path) -> None:
    write(tmp_path / "work", FILES)
    place = Place(str(tmp_path / "work"), str(tmp_path / "scan"), skips_hidden=False)
    tracked = tracker("walk", place, Limits(max_files=5))
    tracked.remember()
    write(tmp_path / "work", {"more": b""})
    with pytest.raises(NotTrackedError, match="it holds 6 files"):
        list(tracked.changes(()))


def test_a_content_that_is_too_large_is_known_by_its_version_alone(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (git_tracker, walk_tracker):
        monkeypatch.setattr(module, "MAX_CONTENT_BYTES", 7)
    monkeypatch.setattr("runner_service.executors.local.scanner.files.MAX_CONTENT_BYTES", 7)
    write(tmp_path / "work", FILES)
    place = Place(str(tmp_path / "work"), str(tmp_path / "scan"), skips_hidden=False)
    tracked = tracker(kind, place, Limits(max_new_bytes=0))
    tracked.remember()
    write(tmp_path / "work", {"f1": b"another content"})
    [change] = tracked.changes(())
    assert (change.path, change.before and change.before.data, change.after and change.after.data) == ("f1", None, None)
    assert change.after
    assert change.after.size == len(b"another content")


def test_hidden_directories_of_a_home_directory_are_left_out(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "work", FILES)
    tracked = tracker(kind, Place(str(tmp_path / "work"), str(tmp_path / "scan"), skips_hidden=True), Limits())
    tracked.remember()
    write(tmp_path / "work", {".cache/a": b"", ".rc": b"", "below/.kept/b": b""})
    assert [change.path for change in tracked.changes(())] == [".rc", "below/.kept/b"]


def test_a_call_that_changes_too_many_files_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(scanner, "MAX_CHANGES", 3)
    (tmp_path / "work").mkdir()
    request = {"root": str(tmp_path / "work"), "directory": str(tmp_path / "scan"), "uses_git": True, "also": []}
    scanner.main([json.dumps({**request, "do": "remember", "allows_home": False})])
    write(tmp_path / "work", FILES)
    scanner.main([json.dumps({**request, "do": "scan"})])
    assert capsysbinary.readouterr().out.endswith(b'{"failed": "more than 3 files were changed at once"}\n')


async def test_without_room_for_contents_changes_are_listed_and_cannot_be_put_back(
    start: StartService, tmp_path: Path
) -> None:
    root = repository(tmp_path / "work", {"small": b"1\n", "large": os.urandom(2_000_000)})
    turns = [turn("", command("echo 2 > small; echo 3 > large")), turn("done")]
    client = await start(turns, SANDBOX_ROOT_DIR=str(root), CHANGES_MAX_BYTES="1000000")
    events = await client.execute(execution_id="e")
    assert notices(events) == []
    assert [path for _, _, path in changes(events)] == ["large", "small"]
    assert {each.path: each.revertable for each in await listed(client, "e")} == {"large": False, "small": True}
    with pytest.raises(grpc.aio.AioRpcError, match="large: what it held is not stored"):
        await revert(client, "e")
    assert (root / "small").read_text() == "2\n"
    await revert(client, "e", skip_conflicts=True)
    assert (root / "small").read_text() == "1\n"
