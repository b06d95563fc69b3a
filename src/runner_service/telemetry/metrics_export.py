"""Exports metrics by OTLP over HTTP and to Prometheus scrapes. Imports the SDK only if either is configured."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runner_service.settings import Settings
from runner_service.telemetry.collector import otlp_headers, resource
from runner_service.telemetry.export_flush import ExportFlush
from runner_service.telemetry.metrics import using_meter

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader


class _Current:
    scrape: Callable[[], bytes] | None = None


@contextmanager
def metering(settings: Settings, flush: ExportFlush) -> Iterator[None]:
    """Exports the metrics recorded inside, where configured. `flush` makes the last export."""
    if settings.otel_sdk_disabled or not (settings.exports_metrics() or settings.metrics_address):
        yield
        return
    provider, scrape = _provider(settings)
    before, _Current.scrape = _Current.scrape, scrape
    try:
        with using_meter(provider.get_meter("runner_service")):
            yield
    finally:
        _Current.scrape = before
        flush.start(provider.shutdown)


def scrape_metrics() -> bytes:
    """Returns the current metrics in the Prometheus text format. Thread-safe; takes some milliseconds."""
    return _Current.scrape() if _Current.scrape else b""


def _provider(settings: Settings) -> "tuple[MeterProvider, Callable[[], bytes] | None]":
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415  # 90 ms

    readers: list[MetricReader] = []
    scrape = None
    if settings.exports_metrics():
        readers.append(_sender(settings))
    if settings.metrics_address:
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415  # only needed here

        from runner_service.telemetry.exposition import expose  # noqa: PLC0415  # only needed here

        reader = InMemoryMetricReader()
        readers.append(reader)

        def scrape() -> bytes:
            return expose(reader.get_metrics_data())

    return MeterProvider(readers, resource=resource(settings), shutdown_on_exit=False), scrape


def _sender(settings: Settings) -> "MetricReader":
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415  # 70 ms
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415  # only needed here

    endpoint = settings.otel_exporter_otlp_metrics_endpoint or f"{settings.otel_exporter_otlp_endpoint}/v1/metrics"
    keys = otlp_headers(settings.otel_exporter_otlp_metrics_headers, settings.otel_exporter_otlp_headers)
    return PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint, headers=keys))
