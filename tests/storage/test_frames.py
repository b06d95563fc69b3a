"""Frames are what protobuf itself would write, and can be counted off."""

import os
from pathlib import Path

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner_service.storage.frames import Framer, TextFramer, TextKind, skip_frames
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

EVENTS: list[Message] = [
    event_pb2.TextDelta(message_id="m", text="hello"),
    event_pb2.TextDelta(message_id="m", text="x" * 100_000),
    event_pb2.ToolOutput(tool_call_id="c", stdout=b"\0\xff"),
    event_pb2.SubAgentFinished(),
    event_pb2.Finished(state=event_pb2.STATE_SUCCEEDED, output="done"),
]

KINDS: list[TextKind] = [event_pb2.TextDelta, event_pb2.ReasoningDelta]
PIECES = ["", " token", "\0", "é漢😀", *("x" * size for size in (127, 128, 2047, 2048, 4096, 70_000)), "", "the end"]


def by_protobuf(kind: TextKind, sequence: int, nanos: int, names: tuple[str, str, str], text: str) -> bytes:
    execution_id, message_id, sub_agent_id = names
    event = event_pb2.ExecutionEvent(execution_id=execution_id, sequence=sequence, sub_agent_id=sub_agent_id)
    event.create_time.FromNanoseconds(nanos)
    piece = kind(message_id=message_id, text=text)
    if isinstance(piece, event_pb2.TextDelta):
        event.text_delta.CopyFrom(piece)
    else:
        event.reasoning_delta.CopyFrom(piece)
    return runner_pb2.ExecuteAgentResponse(events=[event]).SerializeToString()


@pytest.mark.parametrize("sub_agent", ["", "call-1"])
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_a_frame_is_an_entry_of_a_response(event: Message, sub_agent: str) -> None:
    frame = Framer("an-execution").frame(300, event, sub_agent)

    response = runner_pb2.ExecuteAgentResponse.FromString(frame)
    (parsed,) = response.events
    assert (parsed.execution_id, parsed.sequence, parsed.sub_agent_id) == ("an-execution", 300, sub_agent)
    assert parsed.create_time.ToSeconds() > 1_700_000_000
    assert getattr(parsed, str(parsed.WhichOneof("event"))) == event
    assert response.SerializeToString() == frame


def test_a_framer_carries_nothing_over_to_the_next_event() -> None:
    framer = Framer("an-execution")
    framer.frame(1, EVENTS[0], "call-1")

    (parsed,) = runner_pb2.ExecuteAgentResponse.FromString(framer.frame(2, EVENTS[3])).events
    assert (parsed.sequence, parsed.sub_agent_id, parsed.WhichOneof("event")) == (2, "", "sub_agent_finished")


def test_the_first_frames_can_be_left_out() -> None:
    framer = Framer("an-execution")
    frames = b"".join(framer.frame(number, EVENTS[number % len(EVENTS)]) for number in range(1, 21))

    for count in range(21):
        rest = runner_pb2.ExecuteAgentResponse.FromString(skip_frames(frames, count)).events
        assert [event.sequence for event in rest] == list(range(count + 1, 21))


def test_frames_have_the_time_of_the_clock_also_when_it_is_set_back() -> None:
    times = [1_800_000_000_999_999_999, 1_800_000_001_000_000_000, 1_800_000_001_000_000_001, 1_700_000_000_000_000_005]
    framer = Framer("an-execution", iter(times).__next__)

    frames = b"".join(framer.frame(number, EVENTS[0]) for number in range(1, len(times) + 1))
    events = runner_pb2.ExecuteAgentResponse.FromString(frames).events
    assert [event.create_time.ToNanoseconds() for event in events] == times


@pytest.mark.parametrize("names", [("e", "", ""), ("e", "msg-1", ""), ("e" * 200, "m" * 3000, "call-1")])
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_text_are_the_bytes_of_protobuf(kind: TextKind, names: tuple[str, str, str]) -> None:
    execution_id, message_id, sub_agent_id = names
    framer = TextFramer(execution_id, kind, message_id, sub_agent_id, clock=lambda: 1_800_000_000_000_000_007)

    for sequence, text in enumerate(PIECES, 127):
        frame = framer.frame(sequence, text)
        assert frame == by_protobuf(kind, sequence, 1_800_000_000_000_000_007, names, text)
        assert frame == Framer(execution_id, lambda: 1_800_000_000_000_000_007).frame(
            sequence, kind(message_id=message_id, text=text), sub_agent_id
        )


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(KINDS),
    st.tuples(st.text(), st.text(), st.text()),
    st.lists(st.tuples(st.integers(1, 2**63 - 1), st.integers(0, 2**61), st.text()), min_size=1),
)
def test_any_pieces_of_any_text_are_the_bytes_of_protobuf(
    kind: TextKind, names: tuple[str, str, str], pieces: list[tuple[int, int, str]]
) -> None:
    framer = TextFramer(names[0], kind, *names[1:], clock=iter([nanos for _, nanos, _ in pieces]).__next__)

    for sequence, nanos, text in pieces:
        assert framer.frame(sequence, text) == by_protobuf(kind, sequence, nanos, names, text)


def test_a_long_text_does_not_stay_in_memory() -> None:
    framer, piece = TextFramer("an-execution", event_pb2.TextDelta, "m"), "x" * 1000
    framer.frame(1, piece)

    before = resident_bytes()
    for sequence in range(50_000):
        framer.frame(sequence, piece)
    assert resident_bytes() - before < 20_000_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
