"""From the socket to the log to the caller: what a call of ExecuteAgent sees."""

import asyncio
from pathlib import Path

from tests.running import StartService, command, kinds, one, stdout_of, text_of, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


async def test_a_whole_trip_is_numbered_and_ends_with_the_answer(start: StartService) -> None:
    client = await start([turn("Let me look. ", command("echo hello; echo oops >&2")), turn("It said hello.")])

    events = await client.execute("look", execution_id="trip")

    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert {event.execution_id for event in events} == {"trip"}
    assert kinds(events)[0] == "started"
    assert kinds(events)[-1] == "finished"
    assert text_of(events) == "Let me look. It said hello."
    assert stdout_of(events) == b"hello\n"
    assert one(events, "tool_call_started").name == "execute"
    assert one(events, "tool_call_finished").exit_code == 0
    finished = one(events, "finished")
    assert finished.state == event_pb2.STATE_SUCCEEDED
    assert finished.output == "It said hello."
    assert finished.usage.model_calls == 2
    assert finished.elapsed.ToNanoseconds() > 0


async def test_started_says_under_what_conditions_it_runs(start: StartService) -> None:
    client = await start([turn("Hi.")])

    started = one(await client.execute(), "started")

    assert started.mode == "local"
    assert started.sandbox.type == "filesystem"
    assert started.sandbox.root.endswith("/workspace")
    assert started.sandbox.process_control
    assert started.model.provider == "scripted"


async def test_an_id_is_minted_when_the_caller_has_none(start: StartService) -> None:
    client = await start([turn("Hi.")])

    first, second = await client.execute(), await client.execute()

    assert first[0].execution_id
    assert first[0].execution_id != second[0].execution_id


async def test_output_arrives_while_the_command_still_runs(start: StartService) -> None:
    client = await start(
        [turn("", command("echo early; until [ -e go ]; do sleep 0.02; done; echo late")), turn("Ok.")]
    )
    call = client.stub.ExecuteAgent(client.request())

    events = await client.collect(call, until=lambda event: event.tool_output.stdout == b"early\n")
    assert events[-1].tool_output.stdout == b"early\n"
    root = one(events, "started").sandbox.root
    await asyncio.to_thread(Path(root, "go").touch)
    events += await client.collect(call)

    assert stdout_of(events) == b"early\nlate\n"


async def test_output_can_be_read_by_range_while_it_runs_and_after(start: StartService) -> None:
    client = await start([turn("", command(r"printf 'a\0b\377'; until [ -e go ]; do sleep 0.02; done")), turn("Ok.")])
    call = client.stub.ExecuteAgent(client.request(execution_id="reading"))
    events = await client.collect(call, until=lambda event: event.HasField("tool_output"))
    call_id = one(events, "tool_call_started").tool_call_id

    def request(offset: int, **fields: int) -> runner_pb2.ReadToolOutputRequest:
        return runner_pb2.ReadToolOutputRequest(
            execution_id="reading",
            tool_call_id=call_id,
            stream=runner_pb2.OUTPUT_STREAM_STDOUT,
            offset=offset,
            **fields,  # all of them are numbers
        )

    early = await client.stub.ReadToolOutput(request(1, max_bytes=2))
    assert (early.data, early.next_offset, early.complete) == (b"\0b", 3, False)

    await asyncio.to_thread(Path(one(events, "started").sandbox.root, "go").touch)
    await client.collect(call)
    beyond = await client.stub.ReadToolOutput(request(2**63 - 1))
    assert (beyond.data, beyond.complete) == (b"", True)
    late = await client.stub.ReadToolOutput(request(early.next_offset))
    assert (late.data, late.next_offset, late.complete) == (b"\xff", 4, True)


async def test_twenty_executions_at_once_each_see_their_own(start: StartService) -> None:
    client = await start([turn("", command("echo $WHO; sleep 0.1; echo $WHO")), turn("I am {{message}}.")])

    async def run(name: str) -> None:
        environment = {"WHO": runner_pb2.EnvironmentValue(value=name)}
        events = await client.execute(name, execution_id=name, environment=environment)
        assert stdout_of(events) == f"{name}\n{name}\n".encode()
        assert one(events, "finished").output == f"I am {name}."

    async with asyncio.TaskGroup() as tasks:
        for n in range(20):
            tasks.create_task(run(f"agent-{n}"))


async def test_an_execution_that_takes_too_long_is_timed_out(start: StartService) -> None:
    client = await start([turn("", command("echo begun; sleep 60")), turn("Never.")])
    limits = runner_pb2.ExecutionLimits()
    limits.timeout.FromMilliseconds(1500)

    events = await client.execute(limits=limits)

    finished = one(events, "finished")
    assert finished.state == event_pb2.STATE_TIMED_OUT
    assert finished.error.code == "TIMED_OUT"
    assert "limits.timeout = 1.5 s" in finished.error.message
    assert one(events, "tool_call_finished").outcome == event_pb2.TOOL_OUTCOME_CANCELLED


async def test_a_limit_that_is_reached_is_named(start: StartService) -> None:
    client = await start([turn("", command("true")) for _ in range(9)])

    events = await client.execute(limits=runner_pb2.ExecutionLimits(max_model_calls=3))

    finished = one(events, "finished")
    assert finished.state == event_pb2.STATE_FAILED
    assert finished.error.code == "LIMIT_EXCEEDED"
    assert "limits.max_model_calls = 3" in finished.error.message
    assert finished.usage.model_calls == 3


async def test_a_command_that_takes_too_long_keeps_its_output_and_the_model_goes_on(start: StartService) -> None:
    client = await start([turn("", command("echo partial; sleep 60")), turn("It hung.")])
    limits = runner_pb2.ExecutionLimits()
    limits.command_timeout.FromMilliseconds(1000)

    events = await client.execute(limits=limits)

    call = one(events, "tool_call_finished")
    assert call.exit_code == 124
    assert call.outcome == event_pb2.TOOL_OUTCOME_TIMED_OUT
    assert stdout_of(events) == b"partial\n"
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_executions_of_a_session_wait_for_their_turn_and_remember(start: StartService, tmp_path: Path) -> None:
    waits = command("until [ -e go ]; do sleep 0.02; done; echo first")
    client = await start([turn("", waits), turn("First."), turn("Second: {{message}}")])
    first = asyncio.create_task(client.execute("one", execution_id="one", session_id="s"))
    await client.started("one")
    call = client.stub.ExecuteAgent(client.request("two", execution_id="two", session_id="s"))
    second = await client.collect(call, until=lambda event: event.HasField("notice"))
    (tmp_path / "workspace" / "go").touch()
    second += await client.collect(call)

    assert one(await first, "finished").output == "First."
    assert one(second, "notice").code == "SESSION_BUSY"
    assert one(second, "finished").output == "Second: two"
    listed = await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest(session_id="s"))
    assert [execution.execution_id for execution in listed.executions] == ["two", "one"]
