"""Messages of the Stigmer daemon: undecodable bytes are an error of decoding, nothing else."""

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from runner_service.stigmer.wire import agent_pb2, agentexecution_pb2, session_pb2, skill_pb2

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
