"""Figures of the log and what is streamed from it. `rounds` says how often each is measured, all subjects in turns."""

import statistics
from typing import TYPE_CHECKING

from benchmarks import event_cost, log_cost, reporting, scale
from benchmarks.deployment import running_redis
from benchmarks.report import Figure, Plot, ratio, ratios, spread

if TYPE_CHECKING:
    from collections.abc import Sequence


def events(rounds: int) -> Figure:
    """Server CPU per event in log and stream."""
    cases = {
        "1 stream, full speed": (1, 60_000, 0.0),
        "100 streams, full speed": (100, 150_000, 0.0),
        "300 streams, full speed": (300, 150_000, 0.0),
        "100 streams, 50 tokens/s each": (100, 15_000, 0.02),
    }
    table = [
        (
            "",
            "service, µs per event",
            "of which saying them",
            "bare grpc.aio, a message each",
            "×",
            "events/s",
            "events per message",
        )
    ]
    series: dict[str, list[float]] = {"runner-service": [], "bare grpc.aio": []}
    values: dict[str, list[float]] = {}
    for label, (streams, count, gap) in cases.items():
        ours, mute, bare = [], [], []
        for _ in range(rounds):
            ours.append(event_cost.measure("service", streams=streams, events=count, gap=gap))
            mute.append(event_cost.measure("mute", streams=streams, events=count, gap=gap))
            bare.append(event_cost.measure("bare", streams=streams, events=min(count, 30_000), gap=gap))
        table.append(
            (
                label,
                spread([each.cpu for each in ours]),
                spread([each.cpu for each in mute]),
                spread([each.cpu for each in bare]),
                ratio([each.cpu for each in ours], [each.cpu for each in bare]),
                f"{statistics.median(each.rate for each in ours):,.0f}",
                f"{statistics.median(each.batch for each in ours):.1f}",
            )
        )
        series["runner-service"].append(statistics.median(each.cpu for each in ours))
        series["bare grpc.aio"].append(statistics.median(each.cpu for each in bare))
        values[label] = ratios([each.cpu for each in ours], [each.cpu for each in bare])
    labels = [label.replace(", ", "\n") for label in cases]
    plot = Plot("µs", labels, series, 4.5, logarithmic=True)
    return Figure("events", "Server CPU per event, log and stream", table, plot, values)


def reports(rounds: int) -> Figure:  # noqa: ARG001  # calculated, not measured: the same each time
    """Bytes of the reports of an execution."""
    table = [("run", "its last status, kB", "reports", "all of them, kB", "× the last", "every ten events, × the last")]
    series: dict[str, list[float]] = {"runner-service": [], "a status for every ten events": []}
    for run in reporting.RUNS:
        count, sent, last = reporting.throttled_reports(run)
        every_ten = reporting.every_ten(run)
        sizes = (
            f"{last / 1e3:,.0f}",
            f"{count}",
            f"{sent / 1e3:,.0f}",
            f"{sent / last:.1f}",
            f"{every_ten / last:,.0f}",
        )
        table.append((run.name, *sizes))
        series["runner-service"].append(sent / last)
        series["a status for every ten events"].append(every_ten / last)
    labels = [run.name.replace(", ", "\n").replace(" of ", "\nof ") for run in reporting.RUNS]
    plot = Plot("× the last status", labels, series, logarithmic=True)
    values = dict(zip(labels, ([each] for each in series["runner-service"]), strict=True))
    return Figure("reporting", "Bytes of reports, against the last of them", table, plot, values)


def replicas(rounds: int) -> Figure:
    """Several replicas on one Redis."""
    found: dict[str, list[float]] = {}

    def note(label: str, *values: float) -> None:
        found.setdefault(label, []).extend(values)

    with running_redis() as redis:
        for _ in range(rounds):
            local = log_cost.measure(None, streams=100, tokens=100, gap=1 / 30)
            shared = log_cost.measure(redis, streams=100, tokens=100, gap=1 / 30)
            note(scale.LOCAL, local.process)
            note(scale.REPLICA, shared.process)
            note(scale.REDIS, shared.redis)
            note(scale.RATIO, shared.both / local.process)
        note(scale.MEMORY, log_cost.measure(redis, streams=10, tokens=1000, gap=0.005).memory)
    for _ in range(rounds):
        few = scale.crowd(100, replicas=2, tokens=20, gap=0.2)
        note(scale.WAKE_UP, few.wake_up * 1e3)
        note(scale.WAKE_UP_95, few.late_wake_up * 1e3)
        note(scale.TAKEOVER, *scale.takeover(5))
    many = scale.crowd(200, tokens=10)
    note(scale.CROWD_REPLICAS, many.replicas_cpu)
    note(scale.CROWD_REDIS, many.redis_cpu)
    note(scale.CROWD_WAKE_UP, many.wake_up * 1e3)
    table: list[Sequence[str]] = [("", "median (least – most)")]
    table += [(label, spread(values, ".3g")) for label, values in found.items()]
    costs = {"SQLite": scale.LOCAL, "replica, with Redis": scale.REPLICA, "Redis": scale.REDIS}
    plot = Plot("µs", list(costs), {"an event in the log": [statistics.median(found[each]) for each in costs.values()]})
    return Figure("scale", "CPU per event in the log, 100 streams of 30 events/s", table, plot, found)
