"""Changes are listed, shown as a diff, and taken back; never over somebody else's."""

import os
import stat
from pathlib import Path

import grpc
import pytest
from tests.changes.repositories import git, repository, write
from tests.running import Client, Event, StartService, command, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

Kind = event_pb2.FileChange
BEFORE = {"a.txt": b"1\n2\n3\n", "gone.txt": b"gone\n", "run.sh": b"#!/bin/sh\n", "dir/binary": bytes(range(256))}
COMMAND = (
    "sed -i s/2/two/ a.txt; rm gone.txt; chmod +x run.sh; mkdir -p new/deep; echo x > new/deep/file; "
    "ln -s a.txt link; printf '\\0\\1' > dir/binary"
)


def snapshot(root: Path) -> dict[str, tuple[bytes, bool]]:
    """Every file and symlink below a root: its content, and whether it is executable."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.startswith(".git/") or name == ".git":
            continue
        if path.is_symlink():
            found[name] = (os.fsencode(path.readlink()), False)
        elif path.is_file():
            found[name] = (path.read_bytes(), bool(path.stat().st_mode & stat.S_IXUSR))
        else:
            found[name] = (b"directory", False)
    return found


async def listed(client: Client, execution_id: str, **fields: int) -> list[event_pb2.FileChange]:
    request = runner_pb2.ListFileChangesRequest(execution_id=execution_id, **fields)  # type: ignore[arg-type]
    return list((await client.stub.ListFileChanges(request)).changes)


async def revert(client: Client, execution_id: str, **fields: object) -> runner_pb2.RevertChangesResponse:
    request = runner_pb2.RevertChangesRequest(execution_id=execution_id, **fields)  # type: ignore[arg-type]
    response: runner_pb2.RevertChangesResponse = await client.stub.RevertChanges(request)
    return response


async def ran(client: Client, execution_id: str = "e") -> list[Event]:
    return await client.execute(execution_id=execution_id)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return repository(tmp_path / "work", BEFORE)


async def test_what_was_changed_is_put_back_byte_for_byte_and_changed_again(start: StartService, root: Path) -> None:
    before = snapshot(root)
    client = await start([turn("", command(COMMAND)), turn("done")], SANDBOX_ROOT_DIR=str(root))
    await ran(client)
    after = snapshot(root)
    assert [each.path for each in await listed(client, "e")] == [
        "a.txt",
        "dir/binary",
        "gone.txt",
        "link",
        "new/deep/file",
        "run.sh",
    ]
    would = await revert(client, "e", dry_run=True)
    assert snapshot(root) == after
    done = await revert(client, "e")
    assert list(would.reverted) == list(done.reverted)
    assert len(done.reverted) == 6
    assert snapshot(root) == before
    assert await listed(client, "e") == []

    await revert(client, "e", undo_revert=True)
    assert snapshot(root) == after
    assert len(await listed(client, "e")) == 6
    await revert(client, "e", undo_revert=True)
    assert snapshot(root) == before


async def test_a_diff_can_be_applied_backwards_by_git(start: StartService, root: Path, tmp_path: Path) -> None:
    changes = "sed -i s/2/two/ a.txt; rm gone.txt; mkdir new; printf 'no newline' > new/file; chmod +x run.sh"
    before = snapshot(root)
    client = await start([turn("", command(changes)), turn("done")], SANDBOX_ROOT_DIR=str(root))
    await ran(client)
    response = await client.stub.GetDiff(runner_pb2.GetDiffRequest(execution_id="e"))
    assert not response.truncated
    assert "-2\n+two\n" in response.diff
    (tmp_path / "diff").write_text(response.diff)
    git(root, "apply", "-R", str(tmp_path / "diff"))
    assert snapshot(root) == before


async def test_files_are_put_back_as_they_were_after_an_earlier_call(start: StartService, root: Path) -> None:
    turns = [
        turn("", command("echo first > a.txt; echo 1 > one")),
        turn("", ("write_file", {"file_path": "/a.txt", "content": "second\n"})),
        turn("", command("rm one; echo 3 > three")),
        turn("done"),
    ]
    client = await start(turns, SANDBOX_ROOT_DIR=str(root))
    events = await ran(client)
    first = next(event.sequence for event in events if event.HasField("files_changed"))
    assert [each.path for each in await listed(client, "e", after_sequence=first)] == ["a.txt", "one", "three"]
    assert [each.path for each in await listed(client, "e", to_sequence=first)] == ["a.txt", "one"]
    await revert(client, "e", paths=["three"])
    assert not (root / "three").exists()
    await revert(client, "e", to_sequence=first)
    assert ((root / "a.txt").read_text(), (root / "one").read_text()) == ("first\n", "1\n")
    await revert(client, "e")
    assert snapshot(root).keys() == {*BEFORE, "dir"}


async def test_what_somebody_else_edited_is_a_conflict_and_nothing_is_written(start: StartService, root: Path) -> None:
    client = await start([turn("", command(COMMAND)), turn("done")], SANDBOX_ROOT_DIR=str(root))
    await ran(client)
    (root / "a.txt").write_text("the user's\n")
    (root / "gone.txt").write_text("made again\n")
    edited = snapshot(root)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await revert(client, "e")
    assert refused.value.code() == grpc.StatusCode.ABORTED
    assert "a.txt: it was changed by somebody else since, and 1 more" in (refused.value.details() or "")
    assert snapshot(root) == edited
    assert [each.path for each in (await revert(client, "e", dry_run=True)).conflicts] == ["a.txt", "gone.txt"]
    done = await revert(client, "e", skip_conflicts=True)
    assert {each.path for each in done.reverted} == {"run.sh", "new/deep/file", "link", "dir/binary"}
    assert (root / "a.txt").read_text() == "the user's\n"
    assert (root / "gone.txt").read_text() == "made again\n"


async def test_an_edit_of_the_user_between_two_calls_is_never_lost(start: StartService, root: Path) -> None:
    edit = ("edit_file", {"file_path": "/a.txt", "old_string": "user's", "new_string": "agent's"})
    turns = [turn("", command("echo 1 > a.txt")), turn("", edit, delay=3.0), turn("done")]
    client = await start(turns, SANDBOX_ROOT_DIR=str(root))
    async for response in client.stub.ExecuteAgent(client.request(execution_id="e")):
        for event in response.events:
            if event.HasField("files_changed") and event.files_changed.tool_call_id == "call-1-1":
                (root / "a.txt").write_text("the user's\n")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await revert(client, "e")
    assert refused.value.code() == grpc.StatusCode.ABORTED
    assert (root / "a.txt").read_text() == "the agent's\n"
    last = (await client.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id="e"))).execution.last_sequence
    events = await client.collect(client.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="e")))
    first = next(event.sequence for event in events if event.HasField("files_changed"))
    assert first < last
    await revert(client, "e", to_sequence=first)
    assert (root / "a.txt").read_text() == "the user's\n"


async def test_large_files_and_repositories_are_listed_and_not_put_back(start: StartService, root: Path) -> None:
    text = "head -c 11000000 /dev/zero > large; git init -q nested; echo 1 > small"
    client = await start([turn("", command(text)), turn("done")], SANDBOX_ROOT_DIR=str(root))
    await ran(client)
    assert [(each.path, each.revertable) for each in await listed(client, "e")] == [
        ("large", False),
        ("nested", False),
        ("small", True),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await revert(client, "e")
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    done = await revert(client, "e", skip_conflicts=True)
    assert [each.path for each in done.reverted] == ["small"]
    assert {each.path for each in done.conflicts} == {"large", "nested"}


async def test_a_running_execution_and_unknown_paths_are_refused(start: StartService, root: Path) -> None:
    turns = [turn("", command("echo 1 > a.txt; echo ready; sleep 60")), turn("done")]
    client = await start(turns, SANDBOX_ROOT_DIR=str(root))
    call = client.stub.ExecuteAgent(client.request(execution_id="e"))
    await client.collect(call, until=lambda event: event.HasField("tool_output"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await revert(client, "e")
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    await client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="e"))
    await client.collect(call)
    for fields, code in (
        ({"paths": ["nothing"]}, grpc.StatusCode.NOT_FOUND),
        ({"undo_revert": True}, grpc.StatusCode.FAILED_PRECONDITION),
        ({"to_sequence": -1}, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await revert(client, "e", **fields)
        assert refused.value.code() == code
    assert [each.path for each in (await revert(client, "e")).reverted] == ["a.txt"]


async def test_secrets_are_redacted_in_what_leaves_and_kept_in_what_is_put_back(
    start: StartService, root: Path
) -> None:
    secret = "s3cr3t-value-77"
    write(root, {".env": f"TOKEN={secret}\n".encode()})
    client = await start([turn("", command("echo more >> .env")), turn("done")], SANDBOX_ROOT_DIR=str(root))
    environment = {"TOKEN": runner_pb2.EnvironmentValue(value=secret, is_secret=True)}
    await client.execute(execution_id="e", environment=environment)
    diff = (await client.stub.GetDiff(runner_pb2.GetDiffRequest(execution_id="e"))).diff
    assert secret not in diff
    assert "TOKEN=[redacted:secret]" in diff
    await revert(client, "e")
    assert (root / ".env").read_text() == f"TOKEN={secret}\n"
