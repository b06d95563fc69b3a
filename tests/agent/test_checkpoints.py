"""Conversations as they are kept: who may write to the file gains nothing by it, and each execution has its place."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from tests.agent.bench import Bench, open_bench, turn

from runner_service.agent.capabilities import AgentPlan
from runner_service.agent.graphs import CompiledAgent, build_graph
from runner_service.agent.message_list import AgentState
from runner_service.agent.model_calls import RetryPolicy
from runner_service.models.script import Script, Turn
from runner_service.models.scripted import ScriptedChatModel
from runner_service.storage.sqlite.checkpoints import sqlite_checkpoints
from runner_service.storage.state_serializer import StateSerializer

CALLS_WITH_ONE_ARGUMENT = 0  # the library's number for a stored call


def forged(path: Path) -> bytes:
    """What the library reads as `os.mkdir(path)`."""
    return ormsgpack.packb(
        ormsgpack.Ext(CALLS_WITH_ONE_ARGUMENT, ormsgpack.packb(("os", "mkdir", str(path)))),
    )


def test_a_checkpoint_calls_nothing_that_it_names(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    assert StateSerializer().loads_typed(("msgpack", forged(mine))) == str(mine)
    assert not mine.exists()
    JsonPlusSerializer().loads_typed(("msgpack", forged(theirs)))
    assert theirs.exists(), "the library does not do it any more"


async def test_a_session_whose_checkpoint_was_forged_calls_nothing_and_goes_on(bench: Bench, tmp_path: Path) -> None:
    script = bench.script([turn("First."), turn("Second, to: {{message}}")])
    assert (await bench.run(script, session="s", message="one")).answer == "First."
    with closing(sqlite3.connect(bench.state_dir / "checkpoints.db")) as connection, connection:
        for key, state in connection.execute("SELECT rowid, checkpoint FROM checkpoints").fetchall():
            values = ormsgpack.unpackb(state, ext_hook=ormsgpack.Ext)
            values["channel_values"]["todos"] = ormsgpack.unpackb(forged(tmp_path / "made"), ext_hook=ormsgpack.Ext)
            connection.execute("UPDATE checkpoints SET checkpoint = ? WHERE rowid = ?", (ormsgpack.packb(values), key))

    assert (await bench.run(script, session="s", message="two")).answer == "Second, to: two"
    assert not (tmp_path / "made").exists()


async def test_an_id_that_is_used_again_in_its_session_takes_nothing_from_the_conversation(tmp_path: Path) -> None:
    for message in ("one", "two"):
        async with open_bench(tmp_path) as bench:
            await bench.play(turn("Yes."), turn("Yes."), session="s", message=message, execution_id="again")
            said = await conversation(bench, "thread-s")
        for file in (tmp_path / "state").glob("events.db*"):  # as if it had been pruned
            file.unlink()
    assert said == ["one", "Yes.", "two", "Yes."]


async def conversation(bench: Bench, thread: str) -> list[str]:
    graph = build_graph(
        ScriptedChatModel(script=Script(turns=[Turn()])), AgentPlan(""), bench.harness._checkpoints.saver, RetryPolicy()
    )
    state = await graph.aget_state(RunnableConfig(configurable={"thread_id": thread}))
    return [each.text for each in state.values["messages"]]


async def test_a_new_thread_begins_with_the_model_and_one_that_fails_there_goes_on_from_there(tmp_path: Path) -> None:
    """The other graph goes on, in which input begins at `START`."""
    failures = [RuntimeError("killed")]

    def model(state: AgentState) -> dict[str, Any]:
        if failures:
            raise failures.pop()
        return {"messages": [AIMessage(f"{state['messages'][-1].text} Done.", id="b")]}

    builder = StateGraph[Any, Any, Any, Any](AgentState)
    builder.add_node("model", model)
    builder.add_edge(START, "model")
    config = RunnableConfig(configurable={"thread_id": "t"})
    async with sqlite_checkpoints(tmp_path) as checkpoints:
        agent = CompiledAgent.of(builder.compile(checkpointer=checkpoints.saver))
        with pytest.raises(RuntimeError, match="killed"):
            await agent.entry.ainvoke(agent.first_input([HumanMessage("Go.", id="a")]), config, durability="sync")
        left = await agent.graph.aget_state(config)
        assert (left.next, [each.text for each in left.values["messages"]]) == (("model",), ["Go."])
        state = await agent.graph.ainvoke(None, config, durability="sync")
        assert [each.text for each in state["messages"]] == ["Go.", "Go. Done."]
        assert (await agent.graph.aget_state(config)).values == state
        assert [each.metadata["step"] async for each in checkpoints.saver.alist(config)] == [0, -1]


def test_the_model_of_an_agent_is_begun_by_one_channel() -> None:
    graph = build_graph(ScriptedChatModel(script=Script(turns=[Turn()])), AgentPlan(""), None, RetryPolicy())
    assert CompiledAgent.of(graph).first_input([]) == {"messages": [], "branch:to:model": None}
