"""The first prompt costs what docs/prompt.md says, and says what a model needs."""

import gc
import json
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import tool
from tests.agent.bench import Bench
from tests.running import turn

from runner_service.agent.tool_descriptions import DESCRIPTIONS, with_short_texts
from runner_service.models.scripted import ScriptedChatModel

PAGE = Path(__file__).parents[2] / "docs" / "prompt.md"


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[BaseMessage], list[Any]]]:
    """The messages and tools of every call of the model."""
    seen: list[tuple[list[BaseMessage], list[Any]]] = []
    answer = ScriptedChatModel.answer

    async def recorded(self: ScriptedChatModel, messages: list[BaseMessage], **options: Any) -> AIMessage:
        seen.append((messages, options.get("tools", [])))
        return await answer(self, messages, **options)

    monkeypatch.setattr(ScriptedChatModel, "answer", recorded)
    monkeypatch.setattr(ScriptedChatModel, "bind_tools", lambda self, tools, **_: self.bind(tools=tools))
    return seen


async def test_the_first_prompt_is_as_small_as_the_page_says(
    bench: Bench, prompts: list[tuple[list[BaseMessage], list[Any]]]
) -> None:
    await bench.play(turn("Done."))
    messages, tools = prompts[0]
    sizes = {each["function"]["name"]: len(json.dumps(each)) for each in tools}
    sizes["system"] = sum(len(each.text) for each in messages if each.type == "system")
    stated = dict(re.findall(r"^\| `?(\w+)`? \| ([\d,]+) \|", PAGE.read_text(), re.MULTILINE))
    assert {name: f"{size:,}" for name, size in sizes.items()} == {
        name: size for name, size in stated.items() if name != "total"
    }
    assert stated["total"] == f"{sum(sizes.values()):,}"
    assert sum(sizes.values()) < 8_000


async def test_every_tool_of_an_agent_has_a_short_text(
    bench: Bench, prompts: list[tuple[list[BaseMessage], list[Any]]]
) -> None:
    await bench.play(turn("Done."))
    _, tools = prompts[0]
    assert {each["function"]["name"] for each in tools} == {*DESCRIPTIONS, "task"}
    (task,) = [each["function"] for each in tools if each["function"]["name"] == "task"]
    assert "- general-purpose: " in task["description"]
    assert len(task["description"]) < 500


def test_a_tool_of_somebody_else_is_offered_as_it_is() -> None:
    @tool
    def weather(city: str) -> str:
        """Tells the weather."""
        return city

    assert with_short_texts([weather]) == [weather]


def test_a_description_is_made_once_and_keeps_no_tool_in_memory() -> None:
    """The tool that starts sub-agents holds all of their graphs."""

    @tool("ls")
    def listing(path: str) -> str:
        """Lists."""
        return path

    assert with_short_texts([listing])[0] is with_short_texts([listing])[0]
    alive = weakref.ref(listing)
    del listing
    gc.collect()
    assert alive() is None
