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

    def __init__(self, endpoint: str, spans: AsyncIterator[Span]) -> None:
        self.endpoint = endpoint
        self._spans = spans

    async def spans(self, count: int) -> list[Span]:
        """Waits for the next `count` spans, and returns them in the order in which they ended."""
        async with asyncio.timeout(30):
            spans = [await anext(self._spans) for _ in range(count)]
        return sorted(spans, key=lambda span: span.end_time_unix_nano)


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Receives spans on a free port of loopback."""
    port = free_port()
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)) as receiver:
        yield Collector(f"http://127.0.0.1:{port}", receiver.stream_traces())


def attributes(span: Span) -> dict[str, object]:
    """The attributes of a span as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes}
