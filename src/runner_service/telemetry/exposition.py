"""Prometheus text format 0.0.4, with metric names by its conventions."""

from collections.abc import Iterator, Mapping, Sequence

from opentelemetry.sdk.metrics.export import Gauge, Histogram, HistogramDataPoint, Metric, MetricsData, Sum
from opentelemetry.util.types import AttributeValue

_UNITS = {"s": "_seconds", "By": "_bytes"}

Labels = Mapping[str, AttributeValue]


def expose(data: MetricsData | None) -> bytes:
    """Formats all metrics in `data`."""
    lines: list[str] = []
    for resource in data.resource_metrics if data else ():
        lines += ["# HELP target_info The service itself", "# TYPE target_info gauge"]
        lines.append(_sample("target_info", resource.resource.attributes, 1))
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                lines += _lines(metric)
    return "\n".join([*lines, ""]).encode()


def _lines(metric: Metric) -> Iterator[str]:
    name = metric.name.replace(".", "_") + _UNITS.get(metric.unit or "", "")
    match metric.data:
        case Histogram(data_points=points):
            yield from _head(name, "histogram", metric)
            for point in points:
                yield from _histogram(name, point)
        case Sum(data_points=numbers, is_monotonic=True):
            name += "_total"
            yield from _head(name, "counter", metric)
            yield from (_sample(name, number.attributes or {}, number.value) for number in numbers)
        case Sum(data_points=numbers) | Gauge(data_points=numbers):
            yield from _head(name, "gauge", metric)
            yield from (_sample(name, number.attributes or {}, number.value) for number in numbers)


def _head(name: str, kind: str, metric: Metric) -> Sequence[str]:
    return f"# HELP {name} {metric.description}", f"# TYPE {name} {kind}"


def _histogram(name: str, point: HistogramDataPoint) -> Iterator[str]:
    labels, below = point.attributes or {}, 0
    for bound, count in zip([*point.explicit_bounds, "+Inf"], point.bucket_counts, strict=True):
        below += count
        yield _sample(f"{name}_bucket", {**labels, "le": str(bound)}, below)
    yield _sample(f"{name}_sum", labels, point.sum)
    yield _sample(f"{name}_count", labels, point.count)


def _sample(name: str, labels: Labels, value: float) -> str:
    pairs = ",".join(f'{label.replace(".", "_")}="{_escaped(str(text))}"' for label, text in labels.items())
    return f"{name}{{{pairs}}} {value}" if pairs else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
