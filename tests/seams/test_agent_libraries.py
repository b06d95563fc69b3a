"""What the agent loop uses of deepagents, LangGraph and langsmith."""

import inspect
import operator
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import langsmith
import pytest
from deepagents.backends import StateBackend
from deepagents.middleware._parent_notifier import _ParentNotifierMiddleware
from deepagents.middleware._prompt_caching import _LazyAnthropicPromptCachingMiddleware
from deepagents.middleware.filesystem import FilesystemMiddleware, GlobSchema, GrepSchema
from deepagents.middleware.patch_tool_calls import PatchToolCallsMiddleware
from deepagents.middleware.summarization import SummarizationMiddleware, create_summarization_middleware
from deepagents.middleware.unsupported_content import UnsupportedContentMiddleware
from langchain.agents import factory
from langchain.agents.middleware import ModelRequest
from langchain.agents.middleware.summarization import _get_approximate_token_counter
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import RunnableBinding, RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from tests.agent.bench import Bench, command, open_bench, turn

from runner_service.agent import message_list
from runner_service.agent.capabilities import AgentPlan
from runner_service.agent.factory_overrides import _unchanged
from runner_service.agent.graphs import build_graph
from runner_service.agent.message_list import MessageList, add_messages
from runner_service.agent.middleware import TokenCounter, lean_middleware
from runner_service.agent.model_calls import RetryPolicy
from runner_service.agent.tool_calls import SandboxTools
from runner_service.agent.tools.backend import SandboxBackend
from runner_service.models.history import repair
from runner_service.models.script import Script, Turn
from runner_service.models.scripted import ScriptedChatModel
from runner_service.storage.sqlite.checkpoints import InlineSqliteSaver, sqlite_checkpoints
from runner_service.storage.state_serializer import StateSerializer


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


async def test_langchain_hands_a_tool_the_arguments_that_one_method_makes() -> None:
    class Taken(BaseTool):
        name: str = "t"
        description: str = "d"

        def _to_args_and_kwargs(
            self, tool_input: Any, tool_call_id: str | None
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return (), {"arguments": tool_input}

        def _run(self, arguments: dict[str, Any]) -> str:
            return str(arguments)

    arguments = {"config": 1, "run_manager": 2}
    assert await Taken(args_schema={"type": "object", "properties": {}}).ainvoke(arguments) == str(arguments)


def test_deepagents_state_backend_reads_and_writes_files_by_two_methods() -> None:
    class Kept(StateBackend):
        files: ClassVar[dict[str, Any]] = {}

        def _read_files(self) -> dict[str, Any]:
            return self.files

        def _send_files_update(self, update: dict[str, Any]) -> None:
            self.files.update(update)

    backend = Kept()
    assert backend.write("/a", "text").error is None
    assert list(Kept.files) == ["/a"]
    assert backend.read("/a").file_data == Kept.files["/a"]


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


@pytest.mark.parametrize("is_off", [True, False])
async def test_langsmith_takes_part_in_no_call_once_it_is_turned_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_off: bool
) -> None:
    """If it takes part in none anyway, `factory_overrides` has less to do."""
    asked: list[Any] = []

    async def counted(default: Any, context: Any, function: Any, /, *arguments: Any, **options: Any) -> Any:
        asked.append(function)
        return context.run(function, *arguments, **options)

    langsmith.set_runtime_overrides(aio_to_thread=counted)
    try:
        async with open_bench(tmp_path) as bench:
            if not is_off:
                monkeypatch.setattr(factory, "traceable", langsmith.traceable)
            assert (await bench.play(turn("", command("true")), turn("Done."))).answer == "Done."
    finally:
        langsmith.set_runtime_overrides(aio_to_thread=None)
    assert bool(asked) is not is_off


async def test_langchain_looks_for_invalid_calls_before_a_model_call_by_the_function_that_is_replaced(
    bench: Bench,
) -> None:
    assert factory._patch_invalid_tool_calls is _unchanged
    assert "_patch_invalid_tool_calls(state" in inspect.getsource(factory.create_agent)
    invalid: Any = {"name": "ls", "args": "{", "id": "a", "error": "", "type": "invalid_tool_call"}
    repaired = repair([HumanMessage("Go."), AIMessage("Yes.", invalid_tool_calls=[invalid])]).messages
    assert repaired[-1].invalid_tool_calls == []


def test_langchains_requests_assign_their_fields_by_the_method_that_is_replaced(bench: Bench) -> None:
    """From 1.5 on they call it themselves: once that is the earliest version, `factory_overrides` has less to do."""
    assert ModelRequest.__setattr__ is object.__setattr__
    source = inspect.getsource(ModelRequest.__init__)
    assert "self.messages = messages" in source or 'object.__setattr__(self, "messages", messages)' in source
    request: Any = ModelRequest(model=ScriptedChatModel(script=Script(turns=[Turn()])), messages=[HumanMessage("Go.")])
    other = request.override(messages=[])
    assert (len(request.messages), other.messages, other.model) == (1, [], request.model)


def test_deepagents_takes_our_replacements_of_its_middleware_by_their_name() -> None:
    """One that is renamed would stand beside ours: its hooks would be nodes, and messages be looked at twice."""
    graph = build_graph(ScriptedChatModel(script=Script(turns=[Turn()])), AgentPlan(""), None, RetryPolicy())
    assert set(graph.nodes) == {"__start__", "model", "tools"}
    names = {each.name for each in lean_middleware(ScriptedChatModel(script=Script(turns=[Turn()])))}
    deepagents = {
        _ParentNotifierMiddleware().name,
        PatchToolCallsMiddleware().name,
        _LazyAnthropicPromptCachingMiddleware().name,
        "SummarizationMiddleware",
    }
    assert names == deepagents


def test_deepagents_looks_at_the_content_of_each_message_by_one_method() -> None:
    """If it no longer does, `_DirectCall` saves less."""
    source = inspect.getsource(UnsupportedContentMiddleware)
    assert source.count("self._filter_message(") >= 1
    assert list(inspect.signature(UnsupportedContentMiddleware._filter_message).parameters) == [
        "self",
        "message",
        "model",
    ]


def test_deepagents_offloads_long_messages_of_the_user_where_one_method_says_so() -> None:
    """Without it `FileTools.awrap_model_call` leaves out what must be done."""
    assert inspect.getsource(FilesystemMiddleware).count("self._check_eviction_needed(messages)") == 2
    needed = SandboxTools()._check_eviction_needed
    tagged = HumanMessage("x", additional_kwargs={"lc_evicted_to": "/file"})
    assert needed([HumanMessage("short"), AIMessage("y")]) == (False, False)
    assert needed([HumanMessage("x" * 400_000)]) == (False, True)
    assert needed([tagged, AIMessage("y")]) == (True, False)


def test_langchain_binds_tools_as_options_of_a_call() -> None:
    bound = ScriptedChatModel(script=Script(turns=[Turn()])).bind_tools(SandboxTools().tools, stop=["end"])
    assert isinstance(bound, RunnableBinding)
    assert bound.kwargs == {"has_tools": True}


@pytest.mark.parametrize("seed", range(20))
def test_our_list_of_messages_is_that_of_deepagents_reducer(seed: int) -> None:
    choose = random.Random(seed)
    theirs = DeltaChannel[Any](message_list._THEIRS.reducer)
    ours = DeltaChannel[Any](add_messages)
    for channel in (theirs, ours):
        channel.key = "messages"
        channel.value = []
    for step in range(30):
        made = [_written(choose, step) for _ in range(choose.randrange(1, 4))]
        writes = [made, made[:1]] if choose.random() < 0.1 else [*made] if choose.random() < 0.1 else [made]
        branch = ours.copy()
        branch.update(writes)
        for channel in (theirs, ours):
            channel.update(writes)
        assert ours.get() == branch.get() == theirs.get()
        assert isinstance(ours.get(), MessageList)
        assert ours.get().ids == {each.id for each in ours.get()}
    stored = StateSerializer().dumps_typed(ours.get())
    assert stored == StateSerializer().dumps_typed(theirs.get())


def _written(choose: random.Random, step: int) -> Any:
    """Mostly a new message; sometimes one that replaces or removes another, or that is no object."""
    known = f"{choose.randrange(step + 1)}-0"
    return choose.choice(
        [
            *[HumanMessage("new", id=f"{step}-{number}") for number in range(8)],
            AIMessage("replaces", id=known),
            RemoveMessage(id=known),
            HumanMessage("of no id"),
            {"role": "user", "content": "a dict", "id": f"{step}-d"},
            *([RemoveMessage(id=REMOVE_ALL_MESSAGES)] if choose.random() < 0.2 else []),
        ]
    )


def test_long_arguments_of_old_calls_are_shortened_as_deepagents_does_in_batches_of_fifty_messages() -> None:
    model = ScriptedChatModel(script=Script(turns=[Turn()]))
    theirs = create_summarization_middleware(model, SandboxBackend())
    [ours] = [each for each in lean_middleware(model) if each.name == theirs.name]
    assert isinstance(ours, SummarizationMiddleware)
    messages: list[AnyMessage] = []
    for number in range(85):
        name, length = [("write_file", 3000), ("edit_file", 10), ("ls", 3000)][number % 7 % 3]
        call: ToolCall = {"name": name, "args": {"path": "/x", "content": "x" * length}, "id": "c", "type": "tool_call"}
        messages += [AIMessage("", tool_calls=[call]), ToolMessage("ok", tool_call_id="c")]
    assert ours._truncate_args(messages[:120], 0) == theirs._truncate_args(messages[:120], 0)
    shortened, is_changed = ours._truncate_args(messages[:120], 0)
    assert is_changed
    assert all(map(operator.is_, ours._truncate_args(messages[:168], 0)[0], shortened))
    assert ours._truncate_args(messages, 0) == theirs._truncate_args(messages, 0)
    assert ours._truncate_args(messages[:19], 0) == (messages[:19], False)


@pytest.mark.parametrize("with_usage", [True, False])
def test_our_count_of_tokens_is_that_of_langchain(with_usage: bool) -> None:
    usage = UsageMetadata(input_tokens=900, output_tokens=100, total_tokens=1000) if with_usage else None
    call: ToolCall = {"name": "execute", "args": {"command": "ls"}, "id": "c", "type": "tool_call"}
    answer = AIMessage("Yes.", tool_calls=[call], usage_metadata=usage, response_metadata={"model_provider": "openai"})
    image = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}
    messages = [
        SystemMessage("You are."),
        HumanMessage(["Look.", image]),
        answer,
        ToolMessage("x" * 99, tool_call_id="c"),
    ]
    tools = SandboxTools().tools
    model = ScriptedChatModel(script=Script(turns=[Turn()]))
    expected = _get_approximate_token_counter(model)(messages, tools=tools)  # type: ignore[call-arg]
    counter = TokenCounter(model)
    assert [counter(messages, tools=tools), counter(messages, tools=tools)] == [expected, expected]


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    async with open_bench(tmp_path) as opened:
        yield opened
