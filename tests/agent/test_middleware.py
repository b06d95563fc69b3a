"""What replaces the middleware of deepagents: as it does, at less cost."""

import gc
import random
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, TodoListMiddleware
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from tests.agent.bench import Bench, turn

from runner_service.agent.middleware import TodoList
from runner_service.agent.session_handover import enter_graph
from runner_service.models.history import is_sound, repair
from runner_service.models.incremental_fold import IncrementalFold
from runner_service.models.per_message import Copies, PerMessage

CONFIG = RunnableConfig(configurable={"thread_id": "t"})


class Model(FakeMessagesListChatModel):
    """Says the messages it is given, with tools or without."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


@tool
def note(text: str) -> str:
    """Notes a text."""
    return f"noted {text}"


def agent(saver: InMemorySaver, middleware: AgentMiddleware[Any, Any, Any], *messages: AIMessage, **more: Any) -> Any:
    return create_agent(
        Model(responses=list(messages)), tools=[note], middleware=[middleware], checkpointer=saver, **more
    )


async def test_two_todo_lists_in_one_message_are_both_refused(bench: Bench) -> None:
    def todos(text: str) -> Any:
        return "write_todos", {"todos": [{"content": text, "status": "pending"}]}

    played = await bench.play(turn("", todos("one"), todos("other")), turn("", todos("third")), turn("Done."))
    first, second, third = played.all("tool_call_finished")
    assert "once in a message" in first.result
    assert "once in a message" in second.result
    assert not third.result.startswith("Error")
    assert played.answer == "Done."


async def test_an_execution_goes_on_that_stopped_before_a_node_which_only_an_earlier_version_has() -> None:
    call = AIMessage("", tool_calls=[{"name": "note", "args": {"text": "it"}, "id": "c", "type": "tool_call"}])
    saver, node = InMemorySaver(), "TodoListMiddleware.after_model"
    earlier = agent(saver, TodoListMiddleware(), call, interrupt_before=[node])
    await earlier.ainvoke({"messages": [HumanMessage("Go.")]}, CONFIG)
    assert (await earlier.aget_state(CONFIG)).next == (node,)

    graph = agent(saver, TodoList(), AIMessage("Done."))
    state = await graph.aget_state(CONFIG)
    assert state.next == ()
    await enter_graph(graph, CONFIG, state.values["messages"][-1])
    answer = await graph.ainvoke(None, CONFIG)
    assert [each.content for each in answer["messages"]] == ["Go.", "", "noted it", "Done."]


async def test_an_execution_goes_on_that_stopped_before_its_first_node_of_an_earlier_version() -> None:
    class Hook(AgentMiddleware[Any, Any, Any]):
        def before_agent(self, state: Any, runtime: Any) -> None:
            """A node."""

    saver = InMemorySaver()
    earlier = agent(saver, Hook(), interrupt_before=["Hook.before_agent"])
    await earlier.ainvoke({"messages": [HumanMessage("Go.")]}, CONFIG)
    graph = agent(saver, TodoList(), AIMessage("Done."))
    await enter_graph(graph, CONFIG, (await graph.aget_state(CONFIG)).values["messages"][-1])
    assert (await graph.ainvoke(None, CONFIG))["messages"][-1].content == "Done."


async def test_an_execution_that_had_ended_has_its_answer_again() -> None:
    saver = InMemorySaver()
    graph = agent(saver, TodoList(), AIMessage("Done."))
    await graph.ainvoke({"messages": [HumanMessage("Go.")]}, CONFIG)
    await enter_graph(graph, CONFIG, (await graph.aget_state(CONFIG)).values["messages"][-1])
    assert (await graph.ainvoke(None, CONFIG))["messages"][-1].content == "Done."


def test_what_is_remembered_of_a_message_goes_with_the_message() -> None:
    asked: list[str] = []

    def length(message: BaseMessage) -> int:
        asked.append(message.text)
        return len(message.text)

    remembered = PerMessage(length)
    messages: list[BaseMessage] = [HumanMessage("one"), HumanMessage("one"), AIMessage("three")]
    assert [remembered(each) for each in [*messages, *messages]] == [3, 3, 5, 3, 3, 5]
    assert asked == ["one", "one", "three"]
    del messages[1:]
    gc.collect()
    assert len(remembered) == 1


def test_a_conversation_is_computed_from_its_new_messages_only() -> None:
    added: list[str] = []

    def add(state: list[str], message: BaseMessage) -> None:
        added.append(message.text)
        state.append(message.text)

    fold = IncrementalFold[list[str]](list, add)
    messages: list[BaseMessage] = [HumanMessage("one"), AIMessage("two")]
    assert [*fold(messages)] == ["one", "two"]
    messages += [HumanMessage("three"), AIMessage("four")]
    assert [*fold(messages)] == ["one", "two", "three", "four"]
    assert [*fold([*messages])] == ["one", "two", "three", "four"]
    assert added == ["one", "two", "three", "four"]
    other: list[BaseMessage] = [HumanMessage("summary"), *messages[2:]]
    assert [*fold(other)] == ["summary", "three", "four"]
    changed: list[BaseMessage] = [*messages[:1], AIMessage("new"), *messages[2:]]
    assert [*fold(changed)] == ["one", "new", "three", "four"]
    assert fold([]) == []
    del messages, other, changed
    gc.collect()
    assert len(fold) == 0


def test_a_message_is_repaired_to_the_same_copy_each_time() -> None:
    copies = Copies()
    message = HumanMessage("one")
    copy = copies(message, content="two")
    assert copy.content == "two"
    assert copies(message, content="two") is copy
    assert copies(message, content="three").content == "three"
    conversation: list[BaseMessage] = [
        AIMessage("Before."),
        HumanMessage("a"),
        HumanMessage("b"),
        AIMessage("", tool_calls=[{"name": "ls", "args": {}, "id": "c d", "type": "tool_call"}]),
        ToolMessage("", tool_call_id="c d", name="ls"),
    ]
    first, second = repair(conversation).messages, repair(conversation).messages
    assert len(first) == 5
    assert all(one is other for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_a_conversation_is_sound_exactly_if_repair_would_change_nothing(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(200):
        messages = _conversation(choose)
        one_more: list[BaseMessage] = [*messages, ToolMessage("of no call", tool_call_id="nothing")]
        repaired = repair(one_more).messages  # never sound, so it is gone through
        unchanged = len(repaired) == len(messages) and all(
            one is other for one, other in zip(repaired, messages, strict=True)
        )
        assert is_sound(messages) == unchanged, messages


def _conversation(choose: random.Random) -> list[BaseMessage]:
    """Mostly sound, with a fault here and there."""
    messages: list[BaseMessage] = [HumanMessage("Go.")]
    for step in range(choose.randrange(4)):
        ids = [f"c{step}-{number}" for number in range(choose.randrange(3))]
        names = [choose.choice(["ls", "ls", "ls", "functions.ls"]) if choose.random() < 0.2 else "ls" for _ in ids]
        calls: list[Any] = [
            {"name": name, "args": {}, "id": each, "type": "tool_call"} for each, name in zip(ids, names, strict=True)
        ]
        messages.append(AIMessage(choose.choice(["text", "text", " "]), tool_calls=calls))
        messages += [ToolMessage(choose.choice(["ok", "ok", "ok", ""]), tool_call_id=each, name="ls") for each in ids]
        if choose.random() < 0.1:
            messages.append(HumanMessage(choose.choice(["And?", "", "\ud800"])))
        if choose.random() < 0.1:
            choose.shuffle(messages)
        if choose.random() < 0.1:
            messages.pop(choose.randrange(len(messages)))
    return messages
