"""Conversations in every state that they can get into, as requests that no provider refuses."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from tests.models.strict import problems

from runner_service.models.anthropic_messages import anthropic_messages
from runner_service.models.history import has_images, leave_out_refused, repair, without_images
from runner_service.models.ollama_stream import ollama_messages
from runner_service.models.openai_messages import openai_messages

PNG = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
USER = HumanMessage("Hello.")


def calls(*ids: str, text: str = "", name: str = "ls", **more: Any) -> AIMessage:
    tool_calls = [{"name": name, "args": {}, "id": each, "type": "tool_call"} for each in ids]
    return AIMessage(text, tool_calls=tool_calls, **more)


def result(call: str, content: Any = "ok") -> ToolMessage:
    return ToolMessage(content, tool_call_id=call, name="ls")


CONVERSATIONS: dict[str, list[BaseMessage]] = {
    "whole": [USER, calls("a"), result("a"), AIMessage("Done."), HumanMessage("And?")],
    "a call without a result": [USER, calls("a"), HumanMessage("Go on.")],
    "one of two results": [USER, calls("a", "b"), result("b"), HumanMessage("Go on.")],
    "a result behind the next message": [USER, calls("a"), HumanMessage("Go on."), result("a")],
    "results in another order": [USER, calls("a", "b"), result("b"), result("a")],
    "a result twice": [USER, calls("a"), result("a"), result("a")],
    "a result without a call": [USER, result("x"), calls("a"), result("a")],
    "a result of an earlier step": [USER, calls("a"), result("a"), AIMessage("Hm."), USER, result("a")],
    "one id in two messages": [USER, calls("a"), result("a", "1"), calls("a"), result("a", "2")],
    "one id twice in a message": [USER, calls("a", "a"), result("a", "1"), result("a", "2")],
    "an empty id": [USER, calls(""), result("")],
    "an id that is no id": [USER, calls("functions.ls:0"), result("functions.ls:0")],
    "two ids that become one": [USER, calls("a.b", "a/b"), result("a.b"), result("a/b")],
    "a name with special tokens": [USER, calls("a", name="ls<|channel|>json"), result("a")],
    "an empty name": [USER, calls("a", name=""), result("a")],
    "an empty answer": [USER, AIMessage(""), HumanMessage("Hello?")],
    "an answer of white space": [USER, AIMessage(" \n"), HumanMessage("Hello?")],
    "an empty message of the user": [HumanMessage(""), AIMessage("Yes?"), USER],
    "an empty result": [USER, calls("a"), result("a", "")],
    "an empty list as a result": [USER, calls("a"), result("a", [])],
    "a result of empty text": [USER, calls("a"), result("a", [{"type": "text", "text": ""}])],
    "no message of the user": [AIMessage("Hello."), calls("a"), result("a")],
    "three messages of the user": [USER, USER, HumanMessage([{"type": "text", "text": "x"}])],
    "an image of the user": [HumanMessage([{"type": "text", "text": "Look:"}, PNG])],
    "an image as a result": [USER, calls("a", "b"), result("a", [PNG]), result("b")],
    "an image of an odd kind": [USER, calls("a"), result("a", [{**PNG, "mime_type": "image/tiff"}])],
    "a file as a result": [USER, calls("a"), result("a", [{"type": "file", "url": "file:///x", "mime_type": "a/b"}])],
    "an unknown block": [USER, calls("a"), result("a", [{"type": "widget", "x": 1}])],
    "thinking of Anthropic": [
        *(USER, calls("a").model_copy(update={"content": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]})),
        result("a"),
    ],
    "thinking without a signature": [
        USER,
        AIMessage([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes."}]),
        USER,
    ],
    "blocks of tool use in the content": [
        *(
            USER,
            calls("a").model_copy(update={"content": [{"type": "tool_use", "id": "z", "name": "ls", "input": {}}]}),
        ),
        result("a"),
    ],
    "reasoning of another provider": [USER, calls("a", additional_kwargs={"reasoning_content": "Hm."}), result("a")],
    "half a surrogate pair": [HumanMessage("a\ud83d"), calls("a"), result("a", "\udc00")],
    "an answer that ends in white space": [USER, AIMessage("Yes. \n")],
    "an invalid call": [
        USER,
        AIMessage(
            "x", invalid_tool_calls=[{"name": "ls", "args": "{", "id": "a", "error": "", "type": "invalid_tool_call"}]
        ),
        result("a"),
    ],
}


def request_of(provider: str, messages: Sequence[BaseMessage]) -> dict[str, Any]:
    """The request that a client makes of a conversation."""
    if provider == "openai":
        return {"messages": json.loads(openai_messages(messages))}
    if provider == "ollama":
        return {"messages": json.loads(ollama_messages(messages).data)}
    request: dict[str, Any] = json.loads(anthropic_messages(messages))
    return request


@pytest.mark.parametrize("provider", ["openai", "anthropic", "ollama"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_is_sent_as_the_provider_takes_it(provider: str, name: str) -> None:
    messages, _ = repair([SystemMessage("Be kind."), *CONVERSATIONS[name]])

    request = request_of(provider, messages)

    assert not problems(provider, request), request["messages"]


def test_strict_checks_see_what_is_wrong() -> None:
    """The conversations above are refused unless they are repaired, most of them."""
    refused = set()
    for name, messages in CONVERSATIONS.items():
        for provider in ("openai", "anthropic"):
            try:
                found = problems(provider, request_of(provider, messages))
            except Exception as error:  # noqa: BLE001  # whatever it is, the request cannot be made
                found = [repr(error)]
            refused |= {name} if found else set()
    assert len(refused) > 12, refused


def test_a_conversation_that_is_whole_stays_as_it_is() -> None:
    messages, changes = repair(CONVERSATIONS["whole"])
    assert messages == CONVERSATIONS["whole"]
    assert not changes


def test_what_the_model_would_miss_is_told() -> None:
    assert repair(CONVERSATIONS["a call without a result"]).changes == [
        "1 tool calls had no result, which the model is told"
    ]
    assert repair(CONVERSATIONS["a result without a call"]).changes == ["1 results without a tool call were left out"]


def test_results_of_one_id_stay_with_their_calls() -> None:
    messages, _ = repair(CONVERSATIONS["one id in two messages"])
    texts = {each.tool_call_id: each.text for each in messages if isinstance(each, ToolMessage)}
    assert texts == {"a": "1", "a_2": "2"}


def test_images_of_results_follow_in_a_message_of_the_user() -> None:
    messages = json.loads(openai_messages(repair(CONVERSATIONS["an image as a result"]).messages))
    assert [each["role"] for each in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert messages[2]["content"] == "[image, image/png, 3 bytes: see below]"
    assert messages[4]["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_images_can_be_described_instead() -> None:
    messages = CONVERSATIONS["an image as a result"]
    assert has_images(messages)
    assert not has_images(without_images(messages))
    assert without_images(messages)[2].text == "[image, image/png, 3 bytes]"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning_details"])
def test_reasoning_goes_back_with_the_calls_of_the_current_turn_only(field: str) -> None:
    thought = calls("a", additional_kwargs={field: ["Hm."]})
    now = json.loads(openai_messages([USER, thought, result("a")]))
    later = json.loads(openai_messages([USER, thought, result("a"), AIMessage("Yes."), USER]))
    assert now[1][field] == ["Hm."]
    assert field not in later[1]


def test_mistral_gets_ids_of_nine_characters() -> None:
    messages = json.loads(openai_messages([USER, calls("call_1"), result("call_1")], short_ids=True))
    [call] = messages[1]["tool_calls"]
    assert len(call["id"]) == 9
    assert call["id"].isalnum()
    assert messages[2]["tool_call_id"] == call["id"]


def test_what_was_new_in_a_refused_request_is_left_out() -> None:
    assert [each.text for each in leave_out_refused([USER])] == ["[left out: the provider refused it]"]
    step = [USER, calls("a", "b"), result("a"), result("b")]
    assert [type(each) for each in leave_out_refused(step)] == [ToolMessage, ToolMessage]
    assert not leave_out_refused([USER, AIMessage("Yes.")])
