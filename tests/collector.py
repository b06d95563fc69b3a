"""A real OTLP receiver, and what it received."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from opentelemetry.proto.trace.v1.trace_pb2 import Span
from oteltap.oteltap_http_protobuf_receiver import OtelTapHttpProtobufReceiver
from oteltap.oteltap_http_protobuf_receiver_settings import OtelTapHttpProtobufReceiverSettings
from tests.ports import free_port


class Collector:
    """Where spans go: set OTEL_EXPORTER_OTLP_ENDPOINT to `endpoint`."""

    def __init__(self, endpoint: str, spans: asyncio.Queue[Span]) -> None:
        self.endpoint = endpoint
        self._spans = spans

    async def spans(self, count: int) -> list[Span]:
        """Waits for the next `count` spans, and returns them in the order in which they ended."""
        async with asyncio.timeout(60):
            spans = [await self._spans.get() for _ in range(count)]
        return sorted(spans, key=lambda span: span.end_time_unix_nano)


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Receives spans on a free port of loopback."""
    port = free_port()
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)) as receiver:
        spans: asyncio.Queue[Span] = asyncio.Queue()

        async def receive() -> None:
            async for span in receiver.stream_traces():
                spans.put_nowait(span)

        receiving = asyncio.create_task(receive())
        await asyncio.sleep(0)  # what comes before the stream is asked for the first time would be lost
        try:
            yield Collector(f"http://127.0.0.1:{port}", spans)
        finally:
            receiving.cancel()


def attributes(span: Span) -> dict[str, object]:
    """The attributes of a span as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes}
