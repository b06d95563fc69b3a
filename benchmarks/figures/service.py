"""Figures of the service: start, commands, hot paths. `rounds` says how often each is measured, all in turns."""

import statistics

from benchmarks import command_cost, footprint, instructions, peers, protections
from benchmarks.hot_paths import PATHS
from benchmarks.report import Figure, Plot, ratio, ratios, spread

_MB = 1e6


def footprints(rounds: int) -> Figure:
    """Start and memory."""
    ours = [footprint.service_start() for _ in range(rounds)]
    started: dict[str, list[tuple[float, float]]] = {"runner-service": [(each.seconds, each.memory) for each in ours]}
    for name, measure in peers.STARTS.items():
        if measured := peers.or_left_out(name, measure, rounds):
            started[name] = measured
    table = [("", "can be called after, s", "resident then, MB", "× time")]
    reference = [seconds for seconds, _ in started["runner-service"]]
    for name, values in started.items():
        seconds = [each for each, _ in values]
        table.append(
            (name, spread(seconds, ".2f"), spread([each / _MB for _, each in values], ".0f"), ratio(seconds, reference))
        )
    held = [footprint.held(500, 500) for _ in range(rounds)]
    remark = (
        f"Once the agent loop is loaded in the background: {spread([each.loaded / _MB for each in ours], '.0f')} MB. "
        f"An execution at work, waiting for its model: {spread([each.execution / 1e3 for each in held], '.0f')} kB. "
        f"A stream that watches one: {spread([each.watcher / 1e3 for each in held], '.0f')} kB."
    )
    medians = [statistics.median(seconds for seconds, _ in values) for values in started.values()]
    plot = Plot("s", [name.replace(" ", "\n", 1) for name in started], {"start": medians}, 0.4)
    kept = {
        "seconds": reference,
        "MB then": [each.memory / _MB for each in ours],
        "MB with the agent loop": [each.loaded / _MB for each in ours],
        "kB of an execution": [each.execution / 1e3 for each in held],
        "kB of a watcher": [each.watcher / 1e3 for each in held],
    }
    return Figure("start", "From exec to the first answer", table, plot, kept, [remark])


def seam(rounds: int) -> Figure:
    """From the executor to the client."""
    took = command_cost.measure(rounds)
    labels = ("an execution for each `true`", "`true`, one after the other", "10 MB of output")
    table = [("ms", "service", "bare grpc.aio stream", "×")]
    series: dict[str, list[float]] = {"runner-service": [], "bare grpc.aio": []}
    for label, ours, bare in zip(labels, took["service"], took["bare"], strict=True):
        table.append((label, spread(ours, ".2f"), spread(bare, ".2f"), ratio(ours, bare)))
        series["runner-service"].append(statistics.median(ours))
        series["bare grpc.aio"].append(statistics.median(bare))
    rates = _rates(rounds)
    remarks = (
        "`true` per second from 16 clients at once: "
        + ", ".join(f"{name} {spread(values, '.0f')}" for name, values in rates.items())
        + ".",
    )
    plot = Plot("ms", [label.replace("`", "") for label in labels], series, logarithmic=True)
    values = {
        label: ratios(ours, bare) for label, ours, bare in zip(labels, took["service"], took["bare"], strict=True)
    }
    return Figure("seam", "A command, from the executor to the client", table, plot, values, remarks)


def protected_run(rounds: int) -> Figure:
    """Confinement, changes and approvals together."""
    without, with_all = [], []
    for _ in range(rounds):
        without.append(protections.seconds(protected=False))
        with_all.append(protections.seconds(protected=True))
    more = ratios(with_all, without)
    table = [
        ("a run of twenty calls, with a second of the model before each", "s", "×"),
        ("without confinement, changes and approvals", spread(without, ".2f"), "1.00"),
        ("with all three", spread(with_all, ".2f"), spread(more, ".3f")),
    ]
    series = {"a run of twenty calls": [statistics.median(without), statistics.median(with_all)]}
    plot = Plot("s", ["without", "with all three"], series)
    return Figure("protections", "A run with confinement, changes and approvals", table, plot, {"× without": more})


def hot_paths(rounds: int) -> Figure:  # noqa: ARG001  # counted: the same each time
    """Instructions of what runs most often."""
    counted = instructions.per_unit()
    described = {name: (path.__doc__ or "").strip() for name, path in PATHS.items()}
    table = [("", "instructions"), *((described[name], f"{count:,.0f}") for name, count in counted.items())]
    plot = Plot(
        "instructions", [name.replace("_", " ") for name in counted], {"runner-service": list(counted.values())}
    )
    values = {name: [count] for name, count in counted.items()}
    return Figure("instructions", "Instructions of the hot paths", table, plot, values)


def _rates(rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, rate in command_cost.rate(16, 800).items():
            rates.setdefault(name, []).append(rate)
        rates.setdefault("swe-rex's server", []).extend(
            peers.or_left_out("swe-rex's server", lambda: peers.swe_rex_rate(16, 400), 1)
        )
    return {name: values for name, values in rates.items() if values}  # without the peers that are left out
