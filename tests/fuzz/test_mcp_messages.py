"""Messages of MCP servers: each is parsed, ignored, or ends the connection."""

import asyncio
import itertools
import json

from hypothesis import given
from hypothesis import strategies as st
from mcp.types import JSONRPCMessage

from runner_service.agent.mcp.http_limits import _Event
from runner_service.agent.mcp.messages import MessageLimitError, MessageParser
from runner_service.models.json_values import MAX_VALUES, ObjectReader, has_too_many_values

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


@given(values, st.text(',[{}"\\a', max_size=8))
def test_values_are_counted_outside_of_strings(value: object, text: str) -> None:
    few = json.dumps([value, text * MAX_VALUES]).encode()
    assert not has_too_many_values(few)
    assert has_too_many_values(few + b"," * MAX_VALUES)


@given(st.dictionaries(st.text(max_size=8), values, max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_an_object_in_parts_ends_at_its_end(value: dict[str, object], lengths: list[int]) -> None:
    text, position, reader = json.dumps(value, ensure_ascii=False), 0, ObjectReader()
    for length in itertools.cycle(lengths):
        reader.feed(text[position : position + length])
        position += length
        assert reader.has_ended == (position >= len(text))
        if position >= len(text):
            return


@given(st.integers(1, 3))
def test_too_many_values_end_the_connection(extra: int) -> None:
    data = b"[" + b"0," * (MAX_VALUES + extra) + b"0]"
    try:
        asyncio.run(MessageParser().parse(data))
    except MessageLimitError:
        return
    raise AssertionError("it was parsed")


@given(st.binary(max_size=300))
def test_any_bytes_are_an_event(text: bytes) -> None:
    event = _Event.parse(text)
    assert b"\r" not in event.data
