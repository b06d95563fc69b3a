"""What the calls of an execution change is published after them, and counted in the end."""

import asyncio
import hashlib
import os
import shutil
from pathlib import Path

import pytest
from tests.changes.repositories import repository
from tests.running import Event, StartProcess, StartService, command, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

Kind = event_pb2.FileChange
CALLS = ("tool_call_finished", "files_changed")


def changes(events: list[Event]) -> list[tuple[str, str, str]]:
    """The call, the kind and the path of each change."""
    return [
        (event.files_changed.tool_call_id, Kind.Kind.Name(change.kind).removeprefix("KIND_"), change.path)
        for event in events
        if event.HasField("files_changed")
        for change in event.files_changed.changes
    ]


def notices(events: list[Event]) -> list[str]:
    """The codes of notices, but for that of a cloud sandbox that a slow machine starts slowly."""
    codes = [event.notice.code for event in events if event.HasField("notice")]
    return [each for each in codes if each != "SANDBOX_STARTING"]


async def test_changes_of_commands_and_file_tools_follow_their_calls(start: StartService, tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    (root / "kept.txt").write_text("kept\n")
    (root / "old.txt").write_text("1\n2\n3\n")
    (root / "gone.txt").write_text("gone\n")
    turns = [
        turn("", command("sed -i s/2/two/ old.txt; rm gone.txt; mkdir new; echo x > new/file; ln -s new/file link")),
        turn("", ("write_file", {"file_path": "/written.txt", "content": "a\nb\n"})),
        turn("", command("ls -l")),
        turn("", ("edit_file", {"file_path": "/written.txt", "old_string": "b", "new_string": "c"})),
        turn("done"),
    ]
    client = await start(turns, SANDBOX_ROOT_DIR=str(root))
    events = await client.execute()
    assert changes(events) == [
        ("call-1-1", "DELETED", "gone.txt"),
        ("call-1-1", "ADDED", "link"),
        ("call-1-1", "ADDED", "new/file"),
        ("call-1-1", "MODIFIED", "old.txt"),
        ("call-2-1", "ADDED", "written.txt"),
        ("call-4-1", "MODIFIED", "written.txt"),
    ]
    order = [
        (kind, getattr(event, kind).tool_call_id) for event in events if (kind := event.WhichOneof("event")) in CALLS
    ]
    for call in ("call-1-1", "call-2-1", "call-4-1"):
        assert order.index(("tool_call_finished", call)) < order.index(("files_changed", call))
    old = next(each for event in events for each in event.files_changed.changes if each.path == "old.txt")
    assert (old.lines_added, old.lines_removed, old.size, old.revertable, old.binary) == (1, 1, 8, True, False)
    assert old.before_sha256 == hashlib.sha256(b"1\n2\n3\n").hexdigest()
    assert old.after_sha256 == hashlib.sha256((root / "old.txt").read_bytes()).hexdigest()
    summary = events[-1].finished.files_changed
    assert (summary.files, summary.lines_added, summary.lines_removed) == (5, 4, 2)
    assert notices(events) == []


async def test_ignored_files_are_listed_only_if_a_file_tool_wrote_them(start: StartService, tmp_path: Path) -> None:
    root = repository(tmp_path / "work", {".gitignore": b"*.log\n"})
    turns = [
        turn("", command("echo made > command.log; echo seen > seen.txt")),
        turn("", ("write_file", {"file_path": "/tool.log", "content": "a\n"})),
        turn("", command("echo b >> tool.log; echo c >> command.log")),
        turn("done"),
    ]
    events = await (await start(turns, SANDBOX_ROOT_DIR=str(root))).execute()
    assert changes(events) == [
        ("call-1-1", "ADDED", "seen.txt"),
        ("call-2-1", "ADDED", "tool.log"),
        ("call-3-1", "MODIFIED", "tool.log"),
    ]


async def test_what_the_user_edits_between_two_calls_is_not_the_executions(start: StartService, tmp_path: Path) -> None:
    root = repository(tmp_path / "work", {"theirs.txt": b"1\n", "ours.txt": b"1\n"})
    turns = [turn("", command("echo 2 > ours.txt")), turn("", command("echo 3 >> ours.txt"), delay=3.0), turn("done")]
    client = await start(turns, SANDBOX_ROOT_DIR=str(root))
    events: list[Event] = []
    async for response in client.stub.ExecuteAgent(client.request()):
        for event in response.events:
            events.append(event)
            if event.HasField("files_changed") and event.files_changed.tool_call_id == "call-1-1":
                (root / "theirs.txt").write_text("mine\n")
    assert changes(events) == [("call-1-1", "MODIFIED", "ours.txt"), ("call-2-1", "MODIFIED", "ours.txt")]


async def test_without_git_the_files_are_scanned_all_the_same(start_process: StartProcess, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "rm", "cat"):
        (programs / name).symlink_to(shutil.which(name) or "")
    root = tmp_path / "work"
    root.mkdir()
    (root / ".gitignore").write_text("ignored\n")
    (root / "gone").write_text("x")
    turns = [turn("", command("rm gone; echo 1 > new; echo 2 > ignored")), turn("done")]
    service = await start_process(turns, SANDBOX_ROOT_DIR=str(root), PATH=str(programs))
    events = await service.client.execute()
    assert changes(events) == [("call-1-1", "DELETED", "gone"), ("call-1-1", "ADDED", "new")]


async def test_a_directory_that_is_no_project_is_not_tracked_but_file_tools_are(
    start: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "home"
    root.mkdir()
    monkeypatch.setenv("HOME", str(root))
    turns = [
        turn("", command("echo 1 > a")),
        turn("", ("write_file", {"file_path": "/b", "content": "b"})),
        turn("done"),
    ]
    events = await (await start(turns, SANDBOX_ROOT_DIR=str(root), HOME=str(root))).execute()
    assert changes(events) == [("call-2-1", "ADDED", "b")]
    assert notices(events) == ["CHANGES_NOT_TRACKED"]


async def test_tracking_can_be_turned_off(start: StartService, tmp_path: Path) -> None:
    events = await (await start([turn("", command("echo 1 > a")), turn("done")], SANDBOX_TRACK_CHANGES="off")).execute()
    assert changes(events) == []
    assert not events[-1].finished.HasField("files_changed")


async def test_changes_of_a_command_that_was_ended_with_its_execution_are_listed(
    start: StartService, tmp_path: Path
) -> None:
    turns = [turn("", command("echo 1 > made; echo ready; sleep 60")), turn("done")]
    client = await start(turns)
    call = client.stub.ExecuteAgent(client.request(execution_id="ended"))
    events = await client.collect(call, until=lambda event: event.HasField("tool_output"))
    await client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="ended"))
    events += await client.collect(call)
    assert [path for _, _, path in changes(events)] == ["made"]
    assert events[-1].finished.files_changed.files == 1


async def test_secrets_are_redacted_in_paths_of_changes(start: StartService) -> None:
    secret = "s3cr3t-value-77"
    turns = [turn("", command("echo $TOKEN > $TOKEN.txt")), turn("done")]
    environment = {"TOKEN": runner_pb2.EnvironmentValue(value=secret, is_secret=True)}
    events = await (await start(turns)).execute(environment=environment)
    assert changes(events) == [("call-1-1", "ADDED", "[redacted:secret].txt")]


@pytest.mark.parametrize("level", ["workspace", "strict"])
async def test_a_confined_execution_is_tracked_within_its_confinement(
    start: StartService, tmp_path: Path, level: str
) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    root = repository(tmp_path / "work", {"a.txt": b"1\n", "gone.txt": b"gone\n"})
    turns = [turn("", command("echo 2 >> a.txt; rm gone.txt; echo 3 > new; ls -A /tmp")), turn("done")]
    client = await start(turns, SANDBOX_ROOT_DIR=str(root), SANDBOX_CONFINEMENT=level)
    events = await client.execute(execution_id="e")
    assert notices(events) == []
    assert changes(events) == [
        ("call-1-1", "MODIFIED", "a.txt"),
        ("call-1-1", "DELETED", "gone.txt"),
        ("call-1-1", "ADDED", "new"),
    ]
    await client.stub.RevertChanges(runner_pb2.RevertChangesRequest(execution_id="e"))
    assert sorted(os.listdir(root)) == [".git", "a.txt", "gone.txt"]  # noqa: PTH208  # names alone
    assert (root / "a.txt").read_bytes() == b"1\n"


async def test_two_executions_in_one_directory_list_shared_changes_and_know_their_own_writes(
    start: StartService, tmp_path: Path
) -> None:
    root = repository(tmp_path / "work", {"a.txt": b"1\n"})
    meeting = "touch $NAME.ready; until [ -e one.ready ] && [ -e two.ready ]; do sleep 0.05; done"
    both = "echo $NAME > $NAME.txt; until [ -e one.txt ] && [ -e two.txt ]; do sleep 0.05; done"
    turns = [
        turn("", command(f"{meeting}; {both}")),
        turn("", ("write_file", {"file_path": "/{{message}}.written", "content": "x"})),
        turn("done"),
    ]
    client = await start(turns, SANDBOX_ROOT_DIR=str(root))
    named = [
        client.execute(name, execution_id=name, environment={"NAME": runner_pb2.EnvironmentValue(value=name)})
        for name in ("one", "two")
    ]
    for name, events in zip(("one", "two"), await asyncio.gather(*named), strict=True):
        found = {each.path: each.shared for event in events for each in event.files_changed.changes}
        assert found["one.txt"]
        assert found["two.txt"]
        assert not found[f"{name}.written"]
