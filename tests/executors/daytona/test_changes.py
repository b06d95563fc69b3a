"""What an execution changes in a cloud sandbox is found in there, and put back in there while the sandbox lives."""

import json
from pathlib import Path

import grpc
import pytest
from tests.changes.repositories import git, write
from tests.changes.test_reverting import BEFORE, COMMAND, listed, revert, snapshot
from tests.changes.test_tracking import changes, notices
from tests.emulator import Cloud
from tests.executors.daytona.test_sandboxes import settled
from tests.executors.daytona.test_service import in_cloud
from tests.running import StartProcess, StartService, command, one, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


def visible(root: Path) -> dict[str, tuple[bytes, bool]]:
    """Every file and symlink below a root, but hidden ones, which are Daytona's."""
    return {name: what for name, what in snapshot(root).items() if not name.startswith(".")}


@pytest.mark.parametrize("is_repository", [True, False])
async def test_changes_in_the_sandbox_of_a_session_are_listed_shown_and_put_back_byte_for_byte(
    start: StartService, cloud: Cloud, is_repository: bool
) -> None:
    turns = [
        turn("", command("until [ -e ready ] || [ -e a.txt ]; do sleep 0.02; done")),
        turn("", command(COMMAND), ("write_file", {"file_path": "/w", "content": "w\n"})),
        turn("ok"),
    ]
    client = await start(turns, **in_cloud(cloud))
    call = client.stub.ExecuteAgent(client.request(execution_id="first", session_id="s"))
    await client.collect(call, until=lambda event: event.HasField("tool_call_started"))
    [sandbox] = cloud.sandboxes.values()
    write(sandbox.work, {"ready": b""})
    await client.collect(call)
    await revert(client, "first")

    write(sandbox.work, BEFORE)
    if is_repository:
        git(sandbox.work, "init", "-q")
        git(sandbox.work, "add", "--", *BEFORE)
        git(sandbox.work, "commit", "-qm", "first")
    before = visible(sandbox.work)
    events = await client.execute(execution_id="e", session_id="s")
    assert notices(events) == []
    found = ["a.txt", "dir/binary", "gone.txt", "link", "new/deep/file", "run.sh", "w"]
    assert sorted(path for _, _, path in changes(events)) == found
    assert one(events, "finished").files_changed.files == len(found)
    after = visible(sandbox.work)
    assert "-2\n+two\n" in (await client.stub.GetDiff(runner_pb2.GetDiffRequest(execution_id="e"))).diff

    await cloud.stop(sandbox)
    await revert(client, "e")
    assert visible(sandbox.work) == before
    await revert(client, "e", undo_revert=True)
    assert visible(sandbox.work) == after
    assert cloud.created == 1


async def test_when_the_sandbox_is_gone_the_list_and_the_diff_remain_and_a_revert_is_refused_with_the_reason(
    start: StartService, cloud: Cloud
) -> None:
    turns = [turn("", command("echo 1 > a; mkdir .cache; echo 2 > .cache/b; echo 3 > .file")), turn("ok")]
    client = await start(turns, **in_cloud(cloud))
    events = await client.execute(execution_id="e")
    await settled(cloud)
    assert [path for _, _, path in changes(events)] == [".file", "a"]
    assert [each.path for each in await listed(client, "e")] == [".file", "a"]
    assert "+1\n" in (await client.stub.GetDiff(runner_pb2.GetDiffRequest(execution_id="e"))).diff
    with pytest.raises(grpc.aio.AioRpcError, match="the sandbox is gone") as refused:
        await revert(client, "e")
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert cloud.created == 1


async def test_what_is_changed_while_the_service_is_dead_is_listed_when_it_goes_on(
    start_process: StartProcess, cloud: Cloud
) -> None:
    script = "echo 1 > a; echo up; until [ -e go ]; do sleep 0.02; done; echo 2 > b"
    turns = [turn("", ("write_file", {"file_path": "/w", "content": "w"})), turn("", command(script)), turn("ok")]
    service = await start_process(turns, **in_cloud(cloud))
    request = service.client.request(execution_id="e", disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH)
    await service.client.collect(service.stub.ExecuteAgent(request), until=lambda event: event.HasField("tool_output"))
    await service.kill()
    [sandbox] = cloud.sandboxes.values()
    (sandbox.work / "go").touch()
    again = await start_process(**in_cloud(cloud))
    events = await again.client.collect(again.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="e")))
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    assert notices(events) == []
    assert [path for _, _, path in changes(events)] == ["w", "a", "b", "go"]


async def test_more_than_fits_into_a_response_is_fetched_and_put_back_in_parts(
    start: StartService, cloud: Cloud
) -> None:
    make = "head -c 3000000 /dev/urandom > large; for i in $(seq 300); do echo $i > f$i; done"
    client = await start([turn("", command(make)), turn("", command("rm large f*")), turn("ok")], **in_cloud(cloud))
    events = await client.execute(execution_id="e", session_id="s")
    first = next(event.sequence for event in events if event.HasField("files_changed"))
    done = await revert(client, "e", to_sequence=first)
    assert len(done.reverted) == 301
    [sandbox] = cloud.sandboxes.values()
    assert (sandbox.work / "large").stat().st_size == 3_000_000
    assert (sandbox.work / "f300").read_text() == "300\n"


async def test_a_call_costs_one_request_for_its_changes(start: StartService, cloud: Cloud) -> None:
    turns = [
        turn("", command("echo 1 > a")),
        turn("", ("write_file", {"file_path": "/w", "content": "w"})),
        turn("", ("read_file", {"file_path": "/w"})),
        turn("", command("echo 2 > a")),
        turn("ok"),
    ]
    client = await start(turns, **in_cloud(cloud))
    await client.execute(session_id="s")
    [sandbox] = cloud.sandboxes.values()
    requests = [json.loads("".join(each.values())) for each in sandbox.variables if "RUNNER_REQUEST_0" in each]
    asked = {each["turn"]: each["what"] for each in requests if each["do"] == "changes"}  # what is resent has its turn
    assert [*asked.values()] == ["begin", "scan", "written", "scan"]


async def test_after_a_restart_of_the_sandbox_it_is_told_that_commands_are_not_tracked(
    start: StartService, cloud: Cloud
) -> None:
    turns = [
        turn("", command("echo 1 > a")),
        turn("", command("echo up; until [ -e stop ]; do sleep 0.02; done")),
        turn("", command("echo 2 > b")),
        turn("", ("write_file", {"file_path": "/w", "content": "w"})),
        turn("ok"),
    ]
    client = await start(turns, **in_cloud(cloud))
    call = client.stub.ExecuteAgent(client.request(execution_id="e", session_id="s"))
    events = await client.collect(call, until=lambda event: event.HasField("tool_output"))
    [sandbox] = cloud.sandboxes.values()
    await cloud.stop(sandbox)
    events += await client.collect(call)
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    assert {*notices(events)} == {"SANDBOX_RESTARTED", "CHANGES_NOT_TRACKED"}
    assert [path for _, _, path in changes(events)] == ["a", "w"]
