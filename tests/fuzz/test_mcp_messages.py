"""Messages of MCP servers: each is parsed, ignored, or ends the connection."""

import asyncio
import json

from hypothesis import given
from hypothesis import strategies as st
from mcp.types import JSONRPCMessage

from runner_service.agent.mcp.http_limits import _Event
from runner_service.agent.mcp.messages import MAX_MESSAGE_VALUES, MessageLimitError, MessageParser, _counted_values

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
ids = st.integers() | st.text(max_size=20) | st.none()
messages = st.fixed_dictionaries(
    {"jsonrpc": st.sampled_from(["2.0", "1.0", 2])},
    optional={"id": ids, "method": st.text(max_size=20), "params": values, "result": values, "error": values},
)


@given(st.lists(st.binary(max_size=200) | messages.map(lambda each: json.dumps(each).encode()), max_size=20))
def test_any_bytes_are_a_message_or_none(lines: list[bytes]) -> None:
    async def parse() -> None:
        parser = MessageParser()
        for line in lines:
            message = await parser.parse(line)
            assert message is None or isinstance(message, JSONRPCMessage)

    asyncio.run(parse())


@given(values)
def test_values_are_counted_outside_of_strings(value: object) -> None:
    text = json.dumps(value, separators=(",", ":"))
    bare = json.dumps(_without_strings(value), separators=(",", ":"))
    assert _counted_values(text.encode()) == sum(map(bare.count, ",[{"))


def _without_strings(value: object) -> object:
    match value:
        case dict():
            return {str(number): _without_strings(each) for number, each in enumerate(value.values())}
        case list():
            return [_without_strings(each) for each in value]
        case str():
            return ""
    return value


@given(st.integers(1, 3))
def test_too_many_values_end_the_connection(extra: int) -> None:
    data = b"[" + b"0," * (MAX_MESSAGE_VALUES + extra) + b"0]"
    try:
        asyncio.run(MessageParser().parse(data))
    except MessageLimitError:
        return
    raise AssertionError("it was parsed")


@given(st.binary(max_size=300))
def test_any_bytes_are_an_event(text: bytes) -> None:
    event = _Event.parse(text)
    assert b"\r" not in event.data
