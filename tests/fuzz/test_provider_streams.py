"""Streams of providers: events are the same however the stream is cut, and any bytes end in events or a clear error."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from runner_service.models.failures import StreamBrokenError
from runner_service.models.sse import SseDecoder
from runner_service.models.tool_arguments import parse_arguments

lines = st.sampled_from([b"data: {}", b"data:x", b"", b": comment", b"event: a", b"id: 1", b"\xff\xfe", b"data"])
streams = st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=20).map(
    lambda parts: b"".join(line + end for line, end in parts)
)


@given(streams | st.binary(max_size=200), st.lists(st.integers(1, 7), min_size=1, max_size=10))
def test_events_do_not_depend_on_how_a_stream_is_cut(stream: bytes, lengths: list[int]) -> None:
    whole = SseDecoder()
    expected = [*whole.feed(stream), *whole.finish()]
    cut, events, position, turn = SseDecoder(), [], 0, 0
    while position < len(stream):
        length = lengths[turn % len(lengths)]
        events += cut.feed(stream[position : position + length])
        position, turn = position + length, turn + 1
    assert [*events, *cut.finish()] == expected


@given(st.text(max_size=200) | st.recursive(st.just("1"), lambda inner: inner.map(lambda text: f'{{"a":{text}}}')))
def test_any_arguments_are_an_object(raw: str) -> None:
    assert isinstance(asyncio.run(parse_arguments(raw)), dict)


@given(st.binary(max_size=50))
def test_an_endless_event_is_a_broken_stream(data: bytes) -> None:
    decoder = SseDecoder()
    try:
        for _ in range(10):
            decoder.feed(b"data: " + data.replace(b"\n", b"").replace(b"\r", b"") + b"x" * 1_000_000)
    except StreamBrokenError:
        return
    raise AssertionError("it was taken")
