"""Our conversion of messages for Anthropic, compared with LangChain's: what it sends, ours sends as well."""

import json
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from runner_service.models.anthropic_messages import CACHE_CONTROL, anthropic_messages

USER = HumanMessage("Hello.")
PNG = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "s", "index": 0}
CACHED = {"type": "text", "text": "Be kind.", "cache_control": CACHE_CONTROL}


def calls(*ids: str, content: Any = "") -> AIMessage:
    tool_calls = [{"name": "ls", "args": {"path": "/ä"}, "id": each, "type": "tool_call"} for each in ids]
    return AIMessage(content, tool_calls=tool_calls)


def result(call: str, content: Any = "ok", **fields: Any) -> ToolMessage:
    return ToolMessage(content, tool_call_id=call, name="ls", **fields)


CONVERSATIONS: dict[str, list[BaseMessage]] = {
    "nothing": [],
    "text": [USER, AIMessage("Yes?"), HumanMessage("And?")],
    "an answer last, with white space behind it": [USER, AIMessage("Yes. \n")],
    "instructions": [SystemMessage([CACHED]), USER],
    "two instructions": [SystemMessage([CACHED]), SystemMessage([CACHED]), USER],
    "text in blocks": [HumanMessage([{"type": "text", "text": "a"}, "b"]), AIMessage([{"type": "text", "text": "c"}])],
    "a call": [USER, calls("a"), result("a"), AIMessage("Done.")],
    "calls behind text, and what the user says next": [
        *(USER, calls("a", "b", content="Let me see."), result("a"), result("b", status="error")),
        HumanMessage("Go on."),
    ],
    "several messages of the user": [USER, USER, AIMessage("Yes?")],
    "an image of the user": [HumanMessage([{"type": "text", "text": "Look:"}, PNG])],
    "an image as OpenAI has it": [
        HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])
    ],
    "an image as Anthropic has it": [
        HumanMessage([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}])
    ],
    "an image as a result": [USER, calls("a"), result("a", [{"type": "text", "text": "It shows:"}, PNG])],
    "thinking": [USER, calls("a", content=[THOUGHT, {"type": "text", "text": "So."}]), result("a")],
    "thinking that is signed and hidden": [USER, calls("a", content=[{**THOUGHT, "thinking": ""}]), result("a")],
    "thinking that is redacted": [
        *(USER, calls("a", content=[{"type": "redacted_thinking", "data": "x", "index": 0}])),
        result("a"),
    ],
    "calls that are in the content as well": [
        *(USER, calls("a", content=[{"type": "tool_use", "id": "a", "name": "ls", "input": {"path": "/ä"}}])),
        result("a"),
    ],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_is_sent_as_langchain_sends_it(name: str) -> None:
    messages = CONVERSATIONS[name]
    model = ChatAnthropic.model_validate({"model": "claude-x", "api_key": "k"})
    request = model._get_request_payload(messages)
    theirs = {field: request[field] for field in ("system", "messages") if request.get(field) is not None}
    assert json.loads(anthropic_messages(messages)) == in_blocks(theirs)


def test_a_conversation_that_goes_on_is_the_one_that_is_sent_as_a_whole() -> None:
    """The conversion goes on from where it was: a message of the user may have been its last."""
    for messages in CONVERSATIONS.values():
        grown = [json.loads(anthropic_messages(messages[:end])) for end in range(len(messages) + 1)]
        copies = [each.model_copy() for each in messages]
        assert grown[-1] == json.loads(anthropic_messages(copies))


def in_blocks(value: Any) -> Any:
    """What was sent, with each content that is a string as the one block of text that it means."""
    if isinstance(value, list):
        return [in_blocks(each) for each in value]
    if not isinstance(value, dict):
        return value
    fields = {name: in_blocks(each) for name, each in value.items()}
    if isinstance(fields.get("content"), str):
        fields["content"] = [{"type": "text", "text": fields["content"]}]
    return fields
