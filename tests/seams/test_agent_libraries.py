"""What the agent loop uses of deepagents, LangGraph and langsmith."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import langsmith
import pytest
from deepagents.middleware.filesystem import FilesystemMiddleware, GlobSchema, GrepSchema
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver
from tests.agent.bench import Bench, command, open_bench, turn

from runner_service.agent.capabilities import AgentPlan
from runner_service.agent.graphs import build_graph
from runner_service.agent.model_calls import RetryPolicy
from runner_service.agent.tool_calls import SandboxTools
from runner_service.models.script import Script, Turn
from runner_service.models.scripted import ScriptedChatModel
from runner_service.storage.sqlite.checkpoints import InlineSqliteSaver, sqlite_checkpoints


def test_deepagents_takes_our_file_tools_instead_of_its_own_by_their_name() -> None:
    assert SandboxTools().name == FilesystemMiddleware().name
    graph = build_graph(ScriptedChatModel(script=Script(turns=[Turn()])), AgentPlan(""), None, RetryPolicy())
    tools = graph.nodes["tools"].bound.tools_by_name  # type: ignore[attr-defined]  # a ToolNode
    ours = {tool.name: tool for tool in SandboxTools().tools}
    assert {"execute", "read_file", "write_file", "edit_file", "ls", "glob", "grep"} <= ours.keys() <= tools.keys()
    assert all(tools[name].description == tool.description for name, tool in ours.items())


def test_deepagents_search_tools_take_the_arguments_that_ours_add_to() -> None:
    assert {"pattern", "path"} <= GlobSchema.model_fields.keys()
    assert {"pattern", "path", "glob"} <= GrepSchema.model_fields.keys()


async def test_langgraphs_saver_has_the_synchronous_methods_that_are_called_on_the_loop(tmp_path: Path) -> None:
    for name in ("put", "put_writes", "get_tuple", "list", "delete_thread", "get_delta_channel_history", "setup"):
        assert callable(getattr(SqliteSaver, name)), f"SqliteSaver.{name} is gone"
    async with sqlite_checkpoints(tmp_path) as checkpoints:
        config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": [HumanMessage("hello")]}
        stored = await checkpoints.saver.aput(config, checkpoint, {}, {})
        await checkpoints.saver.aput_writes(stored, [("channel", "value")], "task")
        found = await checkpoints.saver.aget_tuple(config)
        assert found
        assert found.pending_writes == [("task", "channel", "value")]
        assert found.checkpoint["channel_values"]["messages"][0].content == "hello"
        assert [each.config async for each in checkpoints.saver.alist(config)] == [found.config]
        assert await checkpoints.thread_ids() == ["t"]
        await checkpoints.delete_thread("t")
        assert await checkpoints.thread_ids() == []


def test_langgraphs_saver_has_the_tables_that_our_schema_leaves_to_it() -> None:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        InlineSqliteSaver(connection).setup()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert tables == {"checkpoints", "writes"}, "CHECKPOINTS.unversioned_tables has to follow"


async def test_langgraph_writes_a_checkpoint_by_no_other_method(bench: Bench) -> None:
    """A method that we do not run inline would go to a thread, on a connection that belongs to the loop."""
    ours = {name for name in vars(InlineSqliteSaver) if name.startswith("a")}
    theirs = {name for name in dir(SqliteSaver) if name.startswith("a") and callable(getattr(SqliteSaver, name))}
    unused = {"acopy_thread", "adelete_for_runs", "aprune", "aget"}  # the last one calls `aget_tuple`
    assert theirs - ours <= unused, f"SqliteSaver has new asynchronous methods: {theirs - ours - unused}"
    await bench.play(turn("", command("true")), turn("Done."), session="s")
    config = RunnableConfig(configurable={"thread_id": "thread-s"})
    assert await bench.harness._checkpoints.saver.aget_tuple(config)


async def test_langsmith_hops_between_threads_unless_it_is_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it no longer asks, `langsmith_threads` has nothing left to do."""
    asked: list[Any] = []
    original = langsmith.set_runtime_overrides

    def counted(*, aio_to_thread: Any) -> None:
        async def counting(*arguments: Any, **options: Any) -> Any:
            asked.append(arguments[2])
            return await aio_to_thread(*arguments, **options)

        original(aio_to_thread=counting)

    monkeypatch.setattr(langsmith, "set_runtime_overrides", counted)
    async with open_bench(tmp_path) as bench:
        assert (await bench.play(turn("Done."))).answer == "Done."
    assert asked


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    async with open_bench(tmp_path) as opened:
        yield opened
