"""The states of an execution: one table, and executions that keep to it whatever is done to them in whatever order."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner_service import states
from runner_service.errors import CancelledEnd, ExecutionEnd, TimedOutEnd
from runner_service.events.writer import log_writer
from runner_service.executions.execution import Execution
from runner_service.executions.registry import Registry
from runner_service.redaction import Redactor
from runner_service.storage.ownership import Claim
from runner_service.storage.sqlite.event_log import sqlite_event_log
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

NOTHING = Redactor([])

CHANGES: dict[str, Callable[[Execution], object]] = {
    "start": lambda execution: execution.publish_started(event_pb2.Started()),
    "succeed": lambda execution: execution.finish(None, output="done"),
    "fail": lambda execution: execution.finish(ExecutionEnd("failed")),
    "cancel": lambda execution: execution.finish(CancelledEnd("cancelled")),
    "time out": lambda execution: execution.finish(TimedOutEnd("too late")),
    "requeue": lambda execution: execution.requeue(NOTHING),
}
"""What changes the state of an execution, but for a run, which the last test does."""


STOPS: dict[str, Callable[[Execution, asyncio.Task[None]], object]] = {
    "stop": lambda execution, _: execution.stop(CancelledEnd("cancelled")),
    "interrupt": lambda execution, _: execution.interrupt(),
    "cancel the task": lambda _, task: task.cancel(),
}


def test_every_state_but_those_that_end_can_be_left_and_every_end_is_reachable() -> None:
    known = set(event_pb2.State.values()) - {event_pb2.STATE_UNSPECIFIED}
    assert set(states.TRANSITIONS) == known
    assert {state for state, following in states.TRANSITIONS.items() if not following} == states.FINAL_STATES
    reached, todo = {states.PENDING}, [states.PENDING]
    while todo:
        for following in states.TRANSITIONS[todo.pop()] - reached:
            reached.add(following)
            todo.append(following)
    assert reached == known


def test_a_change_that_the_table_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(states.InvalidTransitionError, match="cannot go from STATE_SUCCEEDED to STATE_RUNNING"):
        states.require_transition(states.SUCCEEDED, states.RUNNING)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(CHANGES)), max_size=8))
def test_changes_in_any_order_either_keep_to_the_table_or_change_nothing(changes: list[str]) -> None:
    asyncio.run(_change(changes))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(sorted(STOPS)), max_size=3),
    st.sampled_from(["answer", "end", "defect", "wait"]),
    st.booleans(),
)
def test_a_run_ends_in_one_state_that_may_follow_whatever_stops_it(stops: list[str], work: str, starts: bool) -> None:
    asyncio.run(_run(stops, work, starts=starts))


async def _change(changes: list[str]) -> None:
    with TemporaryDirectory() as directory:
        async with sqlite_event_log(Path(directory)) as log:
            async with log_writer(log) as writer:
                execution = _new_execution(Registry(log, writer))
                for change in changes:
                    before, published = execution.state, execution.stream.last_sequence
                    try:
                        CHANGES[change](execution)
                    except states.InvalidTransitionError:
                        assert (execution.state, execution.stream.last_sequence) == (before, published)
                    else:
                        assert execution.state in states.TRANSITIONS[before]
            stored = await log.get("a")
            assert stored
            assert stored.execution.state == execution.state
            page = await log.read("a", 0, 1 << 20)
            events = runner_pb2.ExecuteAgentResponse.FromString(page.frames).events
            assert sum(each.HasField("finished") for each in events) == execution.is_final


def _new_execution(registry: Registry) -> Execution:
    request = runner_pb2.ExecuteAgentRequest(execution_id="a")
    return registry.create(request, NOTHING, claim=Claim("a", 0), fingerprint=b"f", stored_request=None)


async def _run(stops: list[str], work: str, *, starts: bool) -> None:
    with TemporaryDirectory() as directory:
        async with sqlite_event_log(Path(directory)) as log, log_writer(log) as writer:
            execution = _new_execution(Registry(log, writer))
            at_work, forever = asyncio.Event(), asyncio.Event()

            async def agent() -> str:
                execution.publish_started(event_pb2.Started())
                at_work.set()
                match work:
                    case "wait":
                        await forever.wait()
                    case "end":
                        raise TimedOutEnd("too late")
                    case "defect":
                        raise ValueError
                return "done"

            running = asyncio.create_task(execution.run_to_end(agent()))
            await asyncio.sleep(0)
            if starts:
                await at_work.wait()
            for stop in stops:
                STOPS[stop](execution, running)
            if not stops and work == "wait":
                forever.set()
            await asyncio.wait([running])
            assert execution.is_final or execution.can_be_resumed
            if not stops:
                ends = {"end": states.TIMED_OUT, "defect": states.FAILED}
                assert execution.state == ends.get(work, states.SUCCEEDED)


async def test_the_end_is_delivered_together_with_the_last_event_of_the_agent(tmp_path: Path) -> None:
    async with sqlite_event_log(tmp_path) as log, log_writer(log) as writer:
        execution, goes_on, watcher = _new_execution(Registry(log, writer)), asyncio.Event(), object()

        async def agent() -> str:
            execution.publish_started(event_pb2.Started())
            await goes_on.wait()
            execution.notify(event_pb2.Notice(text="the last event"))
            return "done"

        running = asyncio.create_task(execution.run_to_end(agent()))
        page = await execution.stream.page(watcher, 0, timeout_seconds=60)
        assert page
        goes_on.set()
        page = await execution.stream.page(watcher, page.last, timeout_seconds=60)
        assert page
        last, end = runner_pb2.ExecuteAgentResponse.FromString(page.frames).events
        assert (last.notice.text, end.finished.output) == ("the last event", "done")
        await running
