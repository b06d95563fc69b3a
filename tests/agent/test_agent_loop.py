"""The agent loop: plans, sub-agents, limits, tool calls that go wrong, sessions."""

import asyncio
from typing import Any

from tests.agent.bench import Bench, Played, command, turn

from runner_service.errors import LimitExceededEnd
from runner_service.v1 import execution_event_pb2 as event_pb2

ECHO = turn("{{last_tool_result}}")


def texts(played: Played) -> dict[str, str]:
    """What was said, by message."""
    said: dict[str, str] = {}
    for delta in played.all("text_delta"):
        said[delta.message_id] = said.get(delta.message_id, "") + delta.text
    return said


async def test_text_and_reasoning_come_in_pieces_and_the_last_message_is_the_answer(bench: Bench) -> None:
    played = await bench.play(turn("One two three.", reasoning="Let me think."), message="Count.")

    assert played.answer == "One two three."
    assert [delta.text for delta in played.all("text_delta")] == ["One ", "two ", "three."]
    assert "".join(delta.text for delta in played.all("reasoning_delta")) == "Let me think."
    assert played.one("message_finished").stop_reason == "stop"
    assert {event.sub_agent_id for event in played.events} == {""}


async def test_usage_is_summed_up(bench: Bench) -> None:
    used = {"input_tokens": 10, "output_tokens": 5, "cached_tokens": 3}
    played = await bench.play(turn("", command("true"), usage=used), turn("Done.", usage=used))

    sums = played.all("usage_updated")[-1].usage
    assert sums == played.usage
    assert (sums.input_tokens, sums.output_tokens, sums.cached_tokens) == (20, 10, 6)
    assert (sums.model_calls, sums.tool_calls) == (2, 1)


async def test_a_plan_is_an_event(bench: Bench) -> None:
    todos = [{"content": "look", "status": "in_progress"}, {"content": "leap", "status": "pending"}]
    played = await bench.play(turn("", ("write_todos", {"todos": todos})), turn("Done."))

    assert [(todo.content, todo.status) for todo in played.one("todos_updated").todos] == [
        ("look", event_pb2.Todo.STATUS_IN_PROGRESS),
        ("leap", event_pb2.Todo.STATUS_PENDING),
    ]
    assert played.finished("call-1-1").outcome == event_pb2.TOOL_OUTCOME_SUCCEEDED


async def test_what_a_sub_agent_does_carries_the_id_of_its_task_call(bench: Bench) -> None:
    task = ("task", {"subagent_type": "general-purpose", "description": "Look around."})
    reviewer = {"task": "Look", "turns": [turn("I look.", command("echo seen")), turn("It is fine.")]}

    played = await bench.play(turn("Over to you.", task), ECHO, sub_agents=[reviewer])

    assert played.answer == "It is fine."
    started = played.one("sub_agent_started")
    assert (started.tool_call_id, started.name, started.description) == ("call-1-1", "general-purpose", "Look around.")
    by_sub_agent = [event.WhichOneof("event") for event in played.events if event.sub_agent_id == "call-1-1"]
    assert by_sub_agent.count("tool_call_started") == 1
    assert by_sub_agent.count("tool_output") == 1
    assert by_sub_agent.count("message_finished") == 2
    kinds = [str(event.WhichOneof("event")) for event in played.events]
    assert kinds.index("sub_agent_finished") == len(kinds) - 1 - kinds[::-1].index("tool_call_finished") - 1
    assert played.usage.model_calls == 4
    assert played.usage.tool_calls == 2


async def test_sub_agents_at_once_are_not_mixed_up(bench: Bench) -> None:
    tasks = [("task", {"subagent_type": "general-purpose", "description": f"Part {part}."}) for part in "ABC"]
    helpers = [
        {"task": f"Part {part}", "turns": [turn("", command(f"sleep 0.1; echo {part}")), turn(f"{part} is done.")]}
        for part in "ABC"
    ]
    played = await bench.play(turn("", *tasks), turn("All done."), sub_agents=helpers)

    for number, part in enumerate("ABC", 1):
        mine = [event for event in played.events if event.sub_agent_id == f"call-1-{number}"]
        said = "".join(event.text_delta.text for event in mine)
        wrote = b"".join(event.tool_output.stdout for event in mine)
        assert (said, wrote) == (f"{part} is done.", f"{part}\n".encode())
    started = [event.tool_call_id for event in played.all("tool_call_started")]
    assert len(set(started)) == len(started) == 6


async def test_each_limit_ends_the_execution_by_its_name(bench: Bench) -> None:
    endless = bench.script([turn("", command("true"), usage={"input_tokens": 30, "output_tokens": 20})])
    for field, value, used in (
        ("max_model_calls", 3, (3, 3)),
        ("max_tool_calls", 2, (3, 2)),
        ("max_total_tokens", 100, (2, 1)),
    ):
        played = await bench.run(endless, limits={field: value})
        assert isinstance(played.end, LimitExceededEnd)
        assert f"limits.{field} = {value}" in played.end.message
        assert (played.usage.model_calls, played.usage.tool_calls) == used


async def test_an_answer_that_uses_up_the_tokens_is_still_an_answer(bench: Bench) -> None:
    used = {"input_tokens": 90, "output_tokens": 90}
    assert (await bench.play(turn("Here.", usage=used), limits={"max_total_tokens": 100})).answer == "Here."


async def test_a_limit_that_a_sub_agent_reaches_ends_the_whole_execution(bench: Bench) -> None:
    task = ("task", {"subagent_type": "general-purpose", "description": "Go on and on."})
    played = await bench.play(
        turn("", task),
        turn("Never."),
        sub_agents=[{"turns": [turn("", command("true"))]}],
        limits={"max_tool_calls": 4},
    )
    assert isinstance(played.end, LimitExceededEnd)
    assert played.finished("call-1-1").outcome == event_pb2.TOOL_OUTCOME_CANCELLED


async def test_calls_that_cannot_be_made_fail_and_the_model_is_told(bench: Bench) -> None:
    played = await bench.play(
        turn(
            "",
            ("execute", '{"command": "echo'),
            ("execute", '["echo"]'),
            ("execute", {"cmd": "true"}),
            ("no_such_tool", {}),
            ("task", {"subagent_type": "nobody", "description": "x"}),
        ),
        turn("I see."),
    )
    assert played.answer == "I see."
    results = {each.tool_call_id: each for each in played.all("tool_call_finished")}
    assert {each.outcome for each in results.values()} == {event_pb2.TOOL_OUTCOME_FAILED}
    assert "one JSON object" in results["call-1-1"].result
    assert "one JSON object" in results["call-1-2"].result
    assert "command" in results["call-1-3"].result
    assert "no_such_tool" in results["call-1-4"].result
    assert "nobody" in results["call-1-5"].result
    assert not played.all("tool_output")
    assert not played.all("sub_agent_started")
    assert played.all("tool_call_started")[0].arguments["unreadable_arguments"] == '{"command": "echo'


async def test_ids_that_a_provider_repeats_or_garbles_are_made_unique(bench: Bench) -> None:
    calls: list[dict[str, Any]] = [
        {"name": "execute", "args": {"command": f"echo {number}"}, "id": name}
        for number, name in enumerate(["same", "same", "functions.execute:0", "x" * 100])
    ]
    played = await bench.play({"tool_calls": calls}, {"tool_calls": calls[:1]}, turn("Done."))

    started = [event.tool_call_id for event in played.all("tool_call_started")]
    assert started[0] == "same"
    assert len(set(started)) == 5
    assert all(name.replace("-", "").isalnum() for name in started)
    assert [played.output(name) for name in started] == [b"0\n", b"1\n", b"2\n", b"3\n", b"0\n"]
    assert played.answer == "Done."


async def test_an_execution_without_a_session_leaves_no_checkpoints(bench: Bench) -> None:
    await bench.play(turn("", command("true")), turn("Done."))
    saver = bench.harness._checkpoints.saver
    assert [each async for each in saver.alist(None)] == []


async def test_a_session_knows_what_was_said_before(bench: Bench) -> None:
    """The model plays its second turn, since the conversation already has one answer."""
    script = bench.script([turn("First."), turn("Second, to: {{message}}")])
    assert (await bench.run(script, session="s1", message="one")).answer == "First."
    assert (await bench.run(script, session="s1", message="two")).answer == "Second, to: two"
    assert (await bench.run(script, session="s2", message="three")).answer == "First."


async def test_a_session_goes_on_after_an_execution_was_cancelled_in_a_tool(bench: Bench) -> None:
    script = bench.script([turn("", command("touch begun; sleep 60")), turn("Where were we? {{last_tool_result}}")])
    async with asyncio.TaskGroup() as tasks:
        playing = tasks.create_task(bench.run(script, session="s"))
        await bench.appears("begun")
        playing.cancel()

    answer = (await bench.run(script, session="s", message="Go on.")).answer
    assert answer is not None
    assert "Where were we?" in answer
    assert "did not complete" in answer


async def test_many_executions_at_once_are_not_mixed_up(bench: Bench) -> None:
    script = bench.script([turn("", command("echo $NAME")), ECHO])

    async def one(name: str) -> bool:
        played = await bench.run(script, environment={"NAME": name})
        return played.output("call-1-1") == f"{name}\n".encode() and name in str(played.answer)

    assert all(await asyncio.gather(*(one(f"name-{number}") for number in range(20))))


async def test_instructions_and_message_reach_the_model(bench: Bench) -> None:
    played = await bench.play(turn("You said: {{message}}"), message="hello", instructions="Be kind.")
    assert played.answer == "You said: hello"
