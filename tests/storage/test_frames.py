"""Frames are what protobuf itself would write, and can be counted off."""

import pytest
from google.protobuf.message import Message

from runner_service.storage.frames import Framer, skip_frames
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

EVENTS: list[Message] = [
    event_pb2.TextDelta(message_id="m", text="hello"),
    event_pb2.TextDelta(message_id="m", text="x" * 100_000),
    event_pb2.ToolOutput(tool_call_id="c", stdout=b"\0\xff"),
    event_pb2.SubAgentFinished(),
    event_pb2.Finished(state=event_pb2.STATE_SUCCEEDED, output="done"),
]


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
