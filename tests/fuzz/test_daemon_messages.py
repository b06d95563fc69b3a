"""Messages of the Stigmer daemon: undecodable bytes are an error of decoding, odd ones an error of the call."""

import asyncio
import random
from contextlib import suppress
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from runner_service.api.validation.requests import check_execute
from runner_service.errors import CallError
from runner_service.stigmer.methods import Method
from runner_service.stigmer.resolver import read_execution
from runner_service.stigmer.wire import agent_pb2, agentexecution_pb2, session_pb2, skill_pb2
from runner_service.v1 import agent_runner_pb2 as runner_pb2

KINDS = [
    value
    for module in (agent_pb2, agentexecution_pb2, session_pb2, skill_pb2)
    for value in vars(module).values()
    if hasattr(value, "FromString")
]


@given(st.sampled_from(KINDS), st.binary(max_size=300))
def test_any_bytes_are_a_message_or_are_refused(kind: type, data: bytes) -> None:
    try:
        message = kind.FromString(data)  # type: ignore[attr-defined]  # of a generated class
    except DecodeError:
        return
    assert kind.FromString(message.SerializeToString()) is not None  # type: ignore[attr-defined]  # as above


class AnyDaemon:
    """Answers each question with a message of the right type, filled in at random."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def read(self, method: Method[Any], request: Message, what: str) -> Any:
        del request, what
        return filled(method.response(), self._chance)


TEXTS = [
    "",
    "a",
    "ses-1",
    "../..",
    "${A}",
    "${",
    "a b",
    "é\0",
    "x" * 300,
    "https://a.example/mcp",
    "npx",
    "Bearer ${TOKEN}",
]


def filled(message: Message, chance: random.Random, depth: int = 0) -> Message:
    """Sets fields of a message, and of those in it."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < (0.3 if field.message_type else 0.7) and depth < 6:
            fill(message, field, chance, depth)
    return message


def fill(message: Message, field: Any, chance: random.Random, depth: int) -> None:
    value = getattr(message, field.name)
    if field.message_type and field.message_type.GetOptions().map_entry:
        kind = field.message_type.fields_by_name["value"]
        for key in chance.sample(TEXTS, 2):
            if kind.message_type:
                filled(value[key], chance, depth + 1)
            else:
                value[key] = scalar(kind, chance)
    elif field.message_type:
        for each in [value.add(), value.add()] if field.is_repeated else [value]:
            filled(each, chance, depth + 1)
            each.SetInParent()
    elif field.is_repeated:
        value.extend([scalar(field, chance), scalar(field, chance)])
    else:
        setattr(message, field.name, scalar(field, chance))


def scalar(field: Any, chance: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            text = chance.choice(TEXTS)
            return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return chance.choice([0, 1, 2, 99])
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return chance.choice([0.0, -1.5, float("inf"), float("nan")])
    return chance.choice([0, 1, 7, 2**31 - 1])


@given(st.integers(0, 2**32))
def test_whatever_a_daemon_says_of_an_execution_is_a_request_or_refused(seed: int) -> None:
    async def read() -> None:
        client: Any = AnyDaemon(random.Random(seed))
        asked = runner_pb2.ExecuteAgentRequest(execution_id="aex-1")
        found = await read_execution(client, asked, check_execute)
        assert found.request.execution_id == "aex-1"

    with suppress(CallError):
        asyncio.run(read())
