"""Reads the arguments of activities, tolerantly where a newer daemon may send more."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.v1 import agent_runner_pb2 as runner_pb2

T = TypeVar("T")

_INLINE_BYTES = 32 * 1024
_BINARY_PROTOBUF = "binary/protobuf"
_MAX_ERROR_CHARACTERS = 500


def encoding_of(value: RawValue) -> str:
    """Returns the encoding of a payload, such as `json/protobuf`."""
    return value.payload.metadata.get("encoding", b"").decode("ascii", "replace")


async def graphton_request(execution: RawValue) -> runner_pb2.ExecuteAgentRequest:
    """Returns the request that runs an AgentExecution, which is read from the daemon. Raises ApplicationError."""
    return runner_pb2.ExecuteAgentRequest(execution_id=await _execution_id_of(execution))


async def _execution_id_of(execution: RawValue) -> str:
    """Returns `metadata.id` of an AgentExecution; everything else may be unknown. Raises ApplicationError."""
    if encoding_of(execution) == _BINARY_PROTOBUF:
        message = await _decode(execution_pb2.AgentExecution.FromString, execution)
        found: Any = message.metadata.id
    else:
        content: Any = await _decode(json.loads, execution)
        metadata = content.get("metadata") if isinstance(content, dict) else None
        found = metadata.get("id") if isinstance(metadata, dict) else None
    if not isinstance(found, str) or not found:
        raise ApplicationError("the argument has no metadata.id", type="INVALID_ARGUMENT", non_retryable=True)
    return found


async def text_of(value: RawValue) -> str:
    """Returns a string. Raises ApplicationError."""
    found: Any = await _decode(json.loads, value)
    if not isinstance(found, str):
        raise ApplicationError("the argument is not a string", type="INVALID_ARGUMENT", non_retryable=True)
    return found


async def request_of(value: RawValue) -> runner_pb2.ExecuteAgentRequest:
    """Returns a request in protobuf or JSON. Unknown fields are refused. Raises ApplicationError."""
    if encoding_of(value) == _BINARY_PROTOBUF:
        return await _decode(runner_pb2.ExecuteAgentRequest.FromString, value)
    return await _decode(lambda data: json_format.Parse(data, runner_pb2.ExecuteAgentRequest()), value)


def derived_id(prefix: str, *parts: str) -> str:
    """Returns an id that is the same for each attempt of an activity."""
    return f"{prefix}{hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()}"


async def _decode(decode: Callable[[bytes], T], value: RawValue) -> T:
    data = value.payload.data
    try:
        return decode(data) if len(data) <= _INLINE_BYTES else await asyncio.to_thread(decode, data)
    except (ValueError, RecursionError, DecodeError, json_format.ParseError) as error:
        text = str(error)[:_MAX_ERROR_CHARACTERS]
        raise ApplicationError(
            f"the argument cannot be decoded: {text}", type="INVALID_ARGUMENT", non_retryable=True
        ) from None
