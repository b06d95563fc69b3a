"""Exports spans by OTLP over HTTP. Imports the SDK only if a collector is configured."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from runner_service.settings import Settings
from runner_service.telemetry.collector import otlp_headers, resource
from runner_service.telemetry.export_flush import ExportFlush
from runner_service.telemetry.spans import using_tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


def tracing(settings: Settings, flush: ExportFlush) -> AbstractContextManager[None]:
    """Exports the spans made inside, if a collector is configured. `flush` makes the last export."""
    return _exported_spans(settings, flush) if settings.exports_traces() else nullcontext()


@contextmanager
def _exported_spans(settings: Settings, flush: ExportFlush) -> Iterator[None]:
    provider = _provider(settings)
    try:
        with using_tracer(provider.get_tracer("runner_service")):
            yield
    finally:
        flush.start(provider.shutdown)


def _provider(settings: Settings) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # 180 ms
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  # only needed here
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  # only needed here

    provider = TracerProvider(resource=resource(settings), shutdown_on_exit=False)
    keys = otlp_headers(settings.otel_exporter_otlp_traces_headers, settings.otel_exporter_otlp_headers)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=_endpoint(settings), headers=keys)))
    return provider


def _endpoint(settings: Settings) -> str:
    whole = settings.otel_exporter_otlp_traces_endpoint
    return whole or f"{settings.otel_exporter_otlp_endpoint}/v1/traces"
