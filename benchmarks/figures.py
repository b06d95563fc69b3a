"""Which figures there are, and how each is measured. `rounds` says how often, all subjects in turns."""

import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise

from benchmarks import (
    agent_cost,
    command_cost,
    crowd,
    event_cost,
    footprint,
    instructions,
    log_cost,
    peers,
    reporting,
    scale,
)
from benchmarks.deployment import running_redis
from benchmarks.hot_paths import PATHS
from benchmarks.report import Figure, Plot, ratio, ratios, spread

_MB = 1e6


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


def tokens(rounds: int) -> Figure:
    """Per token from the provider's wire to the caller's."""
    cases = {"1 agent": (1, 0.002, 50, 650), "100 agents": (100, 0.025, 20, 120)}
    found: dict[str, dict[str, list[float]]] = {label: {} for label in cases}
    with agent_cost.runners() as runners:
        for number in range(rounds + 1):
            for label, (agents, gap, few, many) in cases.items():
                for name, runner in runners.items():
                    cost = agent_cost.token_cost(runner, agents=agents, gap=gap, few=few, many=many)
                    found[label].setdefault(name, []).extend([cost] if number else [])
    return _compared("tokens", "CPU per token, provider's wire to caller's", "µs", found, goal=100)


def providers(rounds: int) -> Figure:
    """Per token of 100 agents, by provider."""
    found: dict[str, dict[str, list[float]]] = {}
    for kind in ("openai", "anthropic", "ollama"):
        with agent_cost.runners(kind) as runners:
            for number in range(rounds + 1):
                for name, runner in runners.items():
                    cost = agent_cost.token_cost(runner, agents=100, gap=0.025, few=20, many=120)
                    found.setdefault(kind, {}).setdefault(name, []).extend([cost] if number else [])
    return _compared("providers", "CPU per token of 100 agents, by provider", "µs", found)


def steps(rounds: int) -> Figure:
    """Per step of a model call and a tool, with durable checkpoints."""
    found: dict[str, dict[str, list[float]]] = {"1 agent": {}, "10 agents": {}}
    with agent_cost.runners() as runners:
        for number in range(rounds + 1):
            for label, agents in (("1 agent", 1), ("10 agents", 10)):
                for name, runner in runners.items():
                    cost, _ = agent_cost.step_cost(runner, agents=agents, few=2, many=12)
                    found[label].setdefault(name, []).extend([cost] if number else [])
    return _compared("steps", "CPU per step: a model call and a tool, checkpointed", "ms", found, goal=8)


def growth(rounds: int) -> Figure:
    """What a step costs as the conversation grows."""
    counts = (2, 22, 102, 302)
    labels = [f"steps {few + 1} to {many}" for few, many in pairwise(counts)]
    found: dict[str, dict[str, list[float]]] = {label: {} for label in labels}
    with agent_cost.runners() as runners:
        for name, runner in runners.items():
            runner.run(1, '{"tokens": 1, "gap": 0, "steps": 2}')
            for _ in range(rounds):
                for label, cost in zip(labels, agent_cost.growth(runner, counts), strict=True):
                    found[label].setdefault(name, []).append(cost)
    return _compared("growth", "CPU per step, one agent, as its conversation grows", "ms", found)


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


def crowds(rounds: int) -> Figure:
    """1,000 executions at once."""
    table = [
        (
            "executions of 200 tokens at once",
            "failed",
            "all done, s",
            "CPU, s",
            "memory over idle, MB",
            "loop late, ms: 99 %, most",
            "health check, ms: median, most",
        )
    ]
    series: dict[str, list[float]] = {"all done": []}
    values: dict[str, list[float]] = {}
    for count in (100, 300, 1000):
        runs = [crowd.measure(count, 200) for _ in range(rounds if count < 1000 else max(1, rounds // 2))]
        late = sorted(late for run in runs for late in run.lateness) or [0.0]
        probes = sorted(took for run in runs for took in run.probes) or [0.0]
        table.append(
            (
                f"{count:,}",
                str(sum(run.failed for run in runs)),
                spread([run.elapsed for run in runs]),
                spread([run.cpu for run in runs]),
                spread([run.memory / _MB for run in runs], ".0f"),
                f"{late[int(len(late) * 0.99)] * 1e3:.0f}, {late[-1] * 1e3:.0f}",
                f"{statistics.median(probes) * 1e3:.0f}, {probes[-1] * 1e3:.0f}",
            )
        )
        series["all done"].append(statistics.median(run.elapsed for run in runs))
        values[f"CPU seconds of {count:,}"] = [run.cpu for run in runs]
    plot = Plot("s", ["100 at once", "300 at once", "1,000 at once"], series)
    return Figure("crowd", "Executions of 200 tokens at once, all done", table, plot, values)


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


def _rates(rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, rate in command_cost.rate(16, 800).items():
            rates.setdefault(name, []).append(rate)
        rates.setdefault("swe-rex's server", []).extend(
            peers.or_left_out("swe-rex's server", lambda: peers.swe_rex_rate(16, 400), 1)
        )
    return {name: values for name, values in rates.items() if values}  # without the peers that are left out


def _compared(
    name: str, title: str, unit: str, found: dict[str, dict[str, list[float]]], *, goal: float | None = None
) -> Figure:
    subjects = list(next(iter(found.values())))
    table: list[Sequence[str]] = [(unit, *subjects, f"× {subjects[1]}")]
    for label, by_subject in found.items():
        ours, other = (by_subject[subject] for subject in subjects)
        table.append((label, spread(ours), spread(other), ratio(ours, other)))
    series = {subject: [statistics.median(found[label][subject]) for label in found] for subject in subjects}
    values = {label: ratios(*by_subject.values()) for label, by_subject in found.items()}
    return Figure(name, title, table, Plot(unit, list(found), series, goal), values)


FIGURES: dict[str, Callable[[int], Figure]] = {
    "events": events,
    "tokens": tokens,
    "providers": providers,
    "steps": steps,
    "growth": growth,
    "start": footprints,
    "crowd": crowds,
    "seam": seam,
    "reporting": reports,
    "scale": replicas,
    "instructions": hot_paths,
}
