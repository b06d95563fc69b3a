"""Commands of an agent: what is published of them, and what the model sees."""

import asyncio

from tests.agent.bench import Bench, command, turn

from runner_service.v1 import execution_event_pb2 as event_pb2

ECHO = turn("{{last_tool_result}}")


async def test_a_command_is_published_and_its_result_is_what_the_model_sees(bench: Bench) -> None:
    played = await bench.play(turn("Look: ", command("echo out; echo err >&2; exit 3")), ECHO)

    assert played.kinds() == [
        "text_delta",
        "message_finished",
        "usage_updated",
        "tool_call_started",
        "tool_output",
        "tool_call_finished",
        "text_delta",
        "message_finished",
        "usage_updated",
    ]
    started = played.one("tool_call_started")
    assert (started.tool_call_id, started.name, started.kind) == ("call-1-1", "execute", event_pb2.TOOL_KIND_EXECUTE)
    assert started.arguments["command"] == "echo out; echo err >&2; exit 3"
    assert played.output("call-1-1") == b"out\n"
    assert played.output("call-1-1", "stderr") == b"err\n"
    finished = played.finished("call-1-1")
    assert finished.outcome == event_pb2.TOOL_OUTCOME_FAILED
    assert finished.exit_code == 3
    assert finished.elapsed.ToNanoseconds() > 0
    assert finished.resources.stdout_bytes == 4
    assert finished.resources.stderr_bytes == 4
    assert finished.resources.peak_memory_bytes > 0
    assert not finished.truncated
    assert "exit code 3" in finished.result
    assert played.answer == finished.result
    assert "out\n" in played.answer


async def test_output_is_published_while_the_command_runs(bench: Bench) -> None:
    """The command ends only when a file appears, which is made as soon as its output was seen."""
    bench.root.mkdir(exist_ok=True)

    waits = "echo ready; until [ -e go ]; do sleep 0.01; done; echo done"
    played = await bench.play(turn("", command(waits)), ECHO, watch=bench.let_go)

    outputs = played.all("tool_output")
    assert outputs[0].stdout == b"ready\n"
    assert played.output("call-1-1") == b"ready\ndone\n"


async def test_a_command_that_takes_too_long_ends_with_what_it_wrote(bench: Bench) -> None:
    played = await bench.play(turn("", command("echo so far; sleep 30")), ECHO, command_timeout=3)

    finished = played.finished("call-1-1")
    assert finished.outcome == event_pb2.TOOL_OUTCOME_TIMED_OUT
    assert finished.exit_code == 124
    assert "so far" in finished.result
    assert "took longer than 3 s" in finished.result
    assert finished.killed_processes


async def test_the_models_own_time_out_is_capped_by_the_requests(bench: Bench) -> None:
    played = await bench.play(turn("", command("sleep 30", timeout=3000)), ECHO, command_timeout=1)
    assert played.finished("call-1-1").outcome == event_pb2.TOOL_OUTCOME_TIMED_OUT


async def test_of_a_long_output_the_model_sees_both_ends_and_can_read_the_rest(bench: Bench) -> None:
    numbers = "".join(f"{number}\n" for number in range(1, 100_001))
    read = ("read_file", {"file_path": "/tool_output/call-1-1.stdout", "offset": 49_999, "limit": 2})
    search = ("grep", {"pattern": "99999", "path": "/tool_output/call-1-1.stdout", "output_mode": "content"})
    listing = ("ls", {"path": "/tool_output"})

    played = await bench.play(turn("", command("seq 1 100000")), turn("", read, search, listing), ECHO)

    assert played.output("call-1-1") == numbers.encode()
    shown = played.finished("call-1-1")
    assert shown.truncated
    assert len(shown.result) < 32_000
    assert "1\n2\n3\n" in shown.result
    assert "99999\n100000\n" in shown.result
    assert f"{len(numbers) - 30_000:,} bytes left out" in shown.result
    assert "/tool_output/call-1-1.stdout" in shown.result
    assert "50000\n50001" in played.finished("call-2-1").result
    assert "99999" in played.finished("call-2-2").result
    assert "/tool_output/call-1-1.stdout" in played.finished("call-2-3").result


async def test_output_beyond_the_limit_is_counted_and_thrown_away(bench: Bench) -> None:
    played = await bench.play(turn("", command("head -c 5000 /dev/zero")), ECHO, limits={"max_output_bytes": 1000})

    finished = played.finished("call-1-1")
    assert played.output("call-1-1") == bytes(1000)
    assert finished.dropped_bytes == 4000
    assert finished.resources.stdout_bytes == 5000


async def test_calls_of_one_turn_run_side_by_side(bench: Bench) -> None:
    """Each of the two waits for the other."""
    first = command("touch a; until [ -e b ]; do sleep 0.01; done; echo first")
    second = command("touch b; until [ -e a ]; do sleep 0.01; done; echo second")

    played = await bench.play(turn("", first, second), turn("Done."))

    assert played.output("call-1-1") == b"first\n"
    assert played.output("call-1-2") == b"second\n"
    assert played.answer == "Done."


async def test_what_a_left_over_process_writes_later_is_in_the_calls_file(bench: Bench) -> None:
    background = "(until [ -e go ]; do sleep 0.01; done; echo late; touch gone) & echo early"
    release = "touch go; until [ -e gone ]; do sleep 0.01; done"
    read = ("read_file", {"file_path": "/tool_output/call-1-1.stdout"})

    played = await bench.play(turn("", command(background)), turn("", command(release)), turn("", read), ECHO)

    assert played.output("call-1-1") == b"early\n"
    assert "late" in played.finished("call-3-1").result


async def test_a_cancelled_execution_ends_its_command_and_says_so(bench: Bench) -> None:
    seen: list[event_pb2.ToolCallFinished] = []

    def watch(event: object) -> None:
        if isinstance(event, event_pb2.ToolCallFinished):
            seen.append(event)

    async with asyncio.TaskGroup() as tasks:
        playing = tasks.create_task(bench.play(turn("", command("touch begun; sleep 60")), ECHO, watch=watch))
        await bench.appears("begun")
        playing.cancel()
    assert [event.outcome for event in seen] == [event_pb2.TOOL_OUTCOME_CANCELLED]
