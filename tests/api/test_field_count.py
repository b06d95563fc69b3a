"""Requests of very many fields are refused before they are parsed, which would hold the event loop."""

import grpc
import pytest
from google.protobuf.message import Message
from tests.running import StartService, turn

from runner_service.api.field_count import MAX_FIELDS, has_too_many_fields
from runner_service.v1 import agent_runner_pb2 as runner_pb2

MOST = MAX_FIELDS // 3
"""Entries of a map: each is three fields."""


def labelled(count: int) -> runner_pb2.ListExecutionsRequest:
    return runner_pb2.ListExecutionsRequest(labels={f"label-{number:09}": "" for number in range(count)})


def nested(count: int) -> runner_pb2.ExecuteAgentRequest:
    servers = [runner_pb2.McpServer(name="n" * 20) for _ in range(count)]
    return runner_pb2.ExecuteAgentRequest(agent=runner_pb2.Agent(mcp_servers=servers))


@pytest.mark.parametrize(
    ("message", "has_too_many"),
    [
        (labelled(MOST), False),
        (labelled(MOST + 1), True),
        (nested(MAX_FIELDS // 2 - 1), False),
        (nested(MAX_FIELDS // 2), True),
        (runner_pb2.ExecuteAgentRequest(message="long " * 500_000), False),
    ],
)
def test_fields_are_counted_in_messages_and_maps(message: Message, has_too_many: bool) -> None:
    assert has_too_many_fields(message.SerializeToString(), message.DESCRIPTOR) is has_too_many


@pytest.mark.parametrize("data", [b"\xff" * 1_000_000, b"\x0a\xff\xff\x03" + b"a" * 100_000, b"\x0b" * 100_000])
def test_bad_bytes_are_left_to_the_parser(data: bytes) -> None:
    assert not has_too_many_fields(data, runner_pb2.GetExecutionRequest.DESCRIPTOR)


async def test_a_request_of_too_many_fields_is_told_the_bound(start: StartService) -> None:
    client = await start([turn("Done.")])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.stub.ListExecutions(labelled(MOST + 1))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"at most {MAX_FIELDS:,} fields" in str(refused.value.details())
