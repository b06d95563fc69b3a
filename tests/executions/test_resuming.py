"""Executions survive the service: killed at any moment, they go on where they were, and nothing happens twice."""

import asyncio
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.running import Event, ServiceProcess, StartProcess, command, kinds, one, stdout_of, text_of, turn, written

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

WAIT = "until [ -e go ]; do sleep 0.02; done"


async def run_until(
    service: ServiceProcess, wanted: Callable[[Event], bool], **fields: Any
) -> tuple[runner_pb2.ExecuteAgentRequest, list[Event]]:
    request = service.client.request(execution_id="a", **fields)
    return request, await service.client.collect(service.stub.ExecuteAgent(request), until=wanted)


async def go_on(service: ServiceProcess, seen: list[Event], **fields: Any) -> list[Event]:
    """Attaches by id after what was seen; returns everything, having checked that nothing is missing or repeated."""
    request = runner_pb2.ExecuteAgentRequest(execution_id="a", after_sequence=len(seen), **fields)
    events = seen + await service.client.collect(service.stub.ExecuteAgent(request))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert kinds(events).count("finished") == 1
    assert [event.started.resumed for event in events if event.HasField("started")] == [False, True]
    replayed = await service.client.collect(service.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a")))
    assert replayed == events
    return events


def finished_calls(events: list[Event]) -> dict[str, Any]:
    finished = [event.tool_call_finished for event in events if event.HasField("tool_call_finished")]
    calls = {call.tool_call_id: call for call in finished}
    assert len(calls) == len(finished)
    return calls


async def test_a_command_that_was_under_way_is_not_run_again_and_the_model_is_told(
    start_process: StartProcess, tmp_path: Path
) -> None:
    turns = [turn("Now.", command(f"echo once >> effects; {WAIT}")), turn("I was told: {{last_tool_result}}")]
    service = await start_process(turns)
    _, seen = await run_until(service, lambda event: event.HasField("tool_call_started"))
    await written(tmp_path / "workspace" / "effects")
    await service.kill()

    events = await go_on(await start_process(), seen)

    assert (tmp_path / "workspace" / "effects").read_text() == "once\n"
    assert one(events, "tool_call_finished").outcome == event_pb2.TOOL_OUTCOME_INTERRUPTED
    finished = one(events, "finished")
    assert finished.state == event_pb2.STATE_SUCCEEDED
    assert "how far it came is not known" in finished.output
    assert kinds(events).count("tool_call_started") == 1
    assert "message_discarded" not in kinds(events)


async def test_of_two_at_once_the_one_that_had_ended_keeps_its_result(
    start_process: StartProcess, tmp_path: Path
) -> None:
    turns = [
        turn("", command("echo one >> effects; echo the-result"), command(f"echo two >> effects; {WAIT}")),
        turn("Done."),
    ]
    service = await start_process(turns)
    _, seen = await run_until(service, lambda event: event.HasField("tool_call_finished"))
    while "two" not in (tmp_path / "workspace" / "effects").read_text():
        await asyncio.sleep(0.01)
    await service.kill()

    events = await go_on(await start_process(), seen)

    assert sorted((tmp_path / "workspace" / "effects").read_text().split()) == ["one", "two"]
    outcomes = sorted(call.outcome for call in finished_calls(events).values())
    assert outcomes == [event_pb2.TOOL_OUTCOME_SUCCEEDED, event_pb2.TOOL_OUTCOME_INTERRUPTED]
    assert stdout_of(events) == b"the-result\n"


async def test_what_the_model_was_saying_is_discarded_and_said_again(start_process: StartProcess) -> None:
    service = await start_process([turn("a long and slow speech of the model", delay=0.05, silence=60)])
    _, seen = await run_until(service, lambda event: event.sequence >= 4)
    await service.kill()

    events = await go_on(await start_process([turn("a long and slow speech of the model")]), seen)

    discarded = one(events, "message_discarded").message_id
    kept = [event for event in events if event.text_delta.message_id != discarded]
    assert text_of(kept) == "a long and slow speech of the model"
    assert one(events, "finished").output == "a long and slow speech of the model"


async def test_what_had_ended_is_not_done_again(start_process: StartProcess, tmp_path: Path) -> None:
    def turns(**more: Any) -> list[dict[str, Any]]:
        return [
            turn("", command("echo once >> effects"), ("write_file", {"file_path": "/w.txt", "content": "written"})),
            turn("It was: {{last_tool_result}}", **more),
        ]

    service = await start_process(turns(silence=60))
    _, seen = await run_until(service, lambda event: event.HasField("text_delta"))
    await service.kill()
    (tmp_path / "workspace" / "w.txt").write_text("changed by somebody since")

    events = await go_on(await start_process(turns()), seen)

    assert (tmp_path / "workspace" / "effects").read_text() == "once\n"
    assert (tmp_path / "workspace" / "w.txt").read_text() == "changed by somebody since"
    assert {call.outcome for call in finished_calls(events).values()} == {event_pb2.TOOL_OUTCOME_SUCCEEDED}
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_it_goes_on_inside_a_sub_agent(start_process: StartProcess, tmp_path: Path) -> None:
    task = ("task", {"description": "do the inner thing", "subagent_type": "general-purpose"})
    script = {
        "turns": [turn("", task), turn("The sub-agent said: {{last_tool_result}}")],
        "sub_agents": [
            {
                "turns": [
                    turn("", command("echo inner >> effects")),
                    turn("", command(f"echo slow >> effects; {WAIT}")),
                    turn("Inner done."),
                ]
            }
        ],
    }
    service = await start_process(script)
    _, seen = await run_until(service, lambda event: "slow" in str(event.tool_call_started.arguments))
    while "slow" not in (tmp_path / "workspace" / "effects").read_text():
        await asyncio.sleep(0.01)
    await service.kill()

    events = await go_on(await start_process(), seen)

    assert (tmp_path / "workspace" / "effects").read_text() == "inner\nslow\n"
    assert one(events, "finished").output == "The sub-agent said: Inner done."
    assert kinds(events).count("sub_agent_started") == 1
    assert kinds(events).count("sub_agent_finished") == 1
    outcomes = [call.outcome for call in finished_calls(events).values()]
    assert outcomes.count(event_pb2.TOOL_OUTCOME_INTERRUPTED) == 1


async def test_what_had_secrets_goes_on_only_with_the_whole_request(start_process: StartProcess) -> None:
    turns = [turn("", command(WAIT)), turn("", command("printf %s $TOKEN | wc -c")), turn("Done.")]
    environment = {"TOKEN": runner_pb2.EnvironmentValue(value="s3cr3t-t0ken", is_secret=True)}
    service = await start_process(turns)
    request, seen = await run_until(service, lambda event: event.HasField("tool_call_started"), environment=environment)
    await service.kill()
    again = await start_process()

    with pytest.raises(grpc.aio.AioRpcError, match="send the whole request again") as refused:
        await again.client.collect(again.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a")))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION

    request.after_sequence = len(seen)
    events = seen + await again.client.collect(again.stub.ExecuteAgent(request))
    assert stdout_of(events) == b"12\n"
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_executions_go_on_by_themselves_when_that_is_wanted(start_process: StartProcess) -> None:
    service = await start_process([turn("", command(WAIT)), turn("Done.")])
    _, seen = await run_until(service, lambda event: event.HasField("tool_call_started"))
    await service.kill()

    again = await start_process(RESUME_ON_START="true", DISCONNECT_GRACE="0")
    async with asyncio.timeout(60):
        while await again.client.state("a") != event_pb2.STATE_SUCCEEDED:
            await asyncio.sleep(0.02)
    whole = await again.client.collect(again.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a")))
    assert whole[: len(seen)] == seen


async def test_a_drain_leaves_what_goes_on_the_same_way(start_process: StartProcess, tmp_path: Path) -> None:
    turns = [turn("", command(f"echo once >> effects; {WAIT}")), turn("Done.")]
    service = await start_process(turns, DRAIN_TIMEOUT="0")
    _, seen = await run_until(service, lambda event: event.HasField("tool_call_started"))
    await written(tmp_path / "workspace" / "effects")
    service.process.send_signal(signal.SIGTERM)
    assert await service.ended() == 0

    events = await go_on(await start_process(), seen)

    assert (tmp_path / "workspace" / "effects").read_text() == "once\n"
    assert one(events, "tool_call_finished").outcome == event_pb2.TOOL_OUTCOME_INTERRUPTED
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_limits_count_over_restarts(start_process: StartProcess) -> None:
    turns = [turn("", command("true")), turn("", command(WAIT)), turn("", command("true")), turn("Done.")]
    limits = runner_pb2.ExecutionLimits(max_model_calls=2)
    service = await start_process(turns)
    _, seen = await run_until(service, lambda event: "sleep" in str(event.tool_call_started.arguments), limits=limits)
    await service.kill()

    events = await go_on(await start_process(), seen)

    finished = one(events, "finished")
    assert finished.error.code == "LIMIT_EXCEEDED"
    assert finished.usage.model_calls == 2
    assert finished.usage.tool_calls == 2


async def test_time_counts_over_restarts(start_process: StartProcess, tmp_path: Path) -> None:
    hour = 3600
    limits = runner_pb2.ExecutionLimits()
    limits.timeout.FromSeconds(hour)
    service = await start_process([turn("", command(f"echo up; {WAIT}"))])
    _, seen = await run_until(service, lambda event: event.HasField("tool_output"), limits=limits)
    await service.kill()
    begin_earlier(tmp_path / "state" / "events.db", hour)

    again = await start_process()
    call = again.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a", after_sequence=len(seen)))
    finished = one(await again.client.collect(call), "finished")

    assert finished.state == event_pb2.STATE_TIMED_OUT
    assert finished.elapsed.ToSeconds() >= hour


def begin_earlier(database: Path, seconds: int) -> None:
    """Changes the log as if everything but the newest output had happened earlier."""
    with closing(sqlite3.connect(database)) as connection, connection:
        rows: list[tuple[int, bytes]] = connection.execute(
            "SELECT sequence, frame FROM events WHERE call IS NULL"
        ).fetchall()
        for sequence, frame in rows:
            response = runner_pb2.ExecuteAgentResponse.FromString(frame)
            for event in response.events:
                event.create_time.seconds -= seconds
            connection.execute(
                "UPDATE events SET frame = ? WHERE sequence = ?", (response.SerializeToString(), sequence)
            )


async def test_a_session_goes_on_and_what_was_interrupted_in_it_is_ended_by_what_comes_next(
    start_process: StartProcess,
) -> None:
    service = await start_process([turn("", command(WAIT)), turn("First."), turn("Next: {{message}}")])
    _, seen = await run_until(service, lambda event: event.HasField("tool_call_started"), session_id="s")
    await service.kill()

    again = await start_process()
    following = await again.client.execute("what now", execution_id="b", session_id="s")
    assert one(following, "finished").state == event_pb2.STATE_SUCCEEDED
    events = await again.client.collect(again.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a")))
    assert events[: len(seen)] == seen
    assert one(events, "finished").error.code == "INTERRUPTED"


async def test_a_session_that_was_interrupted_goes_on_in_its_conversation(start_process: StartProcess) -> None:
    turns = [turn("First."), turn("", command(WAIT)), turn("Second: {{message}}")]
    service = await start_process(turns)
    await service.client.execute("one", execution_id="before", session_id="s")
    _, seen = await run_until(service, lambda event: event.HasField("tool_call_started"), session_id="s", message="two")
    await service.kill()

    events = await go_on(await start_process(), seen)

    assert one(events, "finished").output == "Second: two"


async def test_the_state_directory_is_clean_once_everything_has_ended(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service = await start_process([turn("", command(f"echo out; {WAIT}")), turn("Done.")])
    _, seen = await run_until(service, lambda event: event.HasField("tool_output"))
    await service.kill()
    again = await start_process()
    await go_on(again, seen)
    again.process.send_signal(signal.SIGTERM)
    await again.ended()

    left = {path.relative_to(tmp_path / "state").parts[0] for path in (tmp_path / "state").rglob("*")}
    kept = {"events.db", "checkpoints.db", "outputs", "lock", "agents", "scans", "supervisor.json", "reserve"}
    assert left <= kept, left - kept
    for name in ("agents", "scans"):
        assert not list((tmp_path / "state" / name).rglob("*"))


async def test_what_a_command_wrote_before_the_crash_can_still_be_read_by_the_agent(
    start_process: StartProcess,
) -> None:
    call = {"name": "execute", "args": {"command": "echo from-before"}, "id": "earlier"}
    read = ("read_file", {"file_path": "/tool_output/earlier.stdout"})
    turns = [{"tool_calls": [call]}, turn("", command(WAIT)), turn("", read), turn("It was: {{last_tool_result}}")]
    service = await start_process(turns)
    _, seen = await run_until(service, lambda event: "sleep" in str(event.tool_call_started.arguments))
    await service.kill()

    events = await go_on(await start_process(), seen)

    assert "from-before" in one(events, "finished").output


async def test_resuming_in_another_directory_is_refused_with_the_command_that_works(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service = await start_process([turn("Now.", command(WAIT)), turn("Done.")])
    await run_until(service, lambda event: event.HasField("tool_call_started"))
    await service.kill()
    elsewhere = await start_process(SANDBOX_ROOT_DIR=str(tmp_path / "elsewhere"))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await elsewhere.client.collect(elsewhere.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a")))

    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert f"runner-service run --root {tmp_path / 'workspace'} --id a" in str(refused.value.details())
    response = await elsewhere.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id="a"))
    assert response.execution.state == event_pb2.STATE_INTERRUPTED
    assert response.execution.root == str(tmp_path / "workspace")
    assert response.execution.mode == "local"
