"""Figures of executions with an agent. `rounds` says how often each is measured, all subjects in turns."""

import statistics
from itertools import pairwise
from typing import TYPE_CHECKING

from benchmarks import agent_cost, crowd
from benchmarks.report import Figure, Plot, ratio, ratios, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

_MB = 1e6


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
    """Per token of 100 agents, by provider, at a rate that the machine sustains: 2,000 tokens a second."""
    found: dict[str, dict[str, list[float]]] = {}
    for kind in ("openai", "anthropic", "ollama"):
        by_subject = found.setdefault(kind, {})
        with agent_cost.runners(kind) as runners:
            for runner in runners.values():
                agent_cost.token_cost(runner, agents=100, gap=0.05, few=2, many=12)  # what the first run compiles
            for _ in range(rounds):
                for name, runner in runners.items():
                    cost = agent_cost.token_cost(runner, agents=100, gap=0.05, few=10, many=130)
                    by_subject.setdefault(name, []).append(cost)
    return _compared("providers", "CPU per token of 100 agents, by provider", "µs", found)


def executions(rounds: int) -> Figure:
    """Of an execution that says one token."""
    found: dict[str, dict[str, list[float]]] = {"one token": {}}
    with agent_cost.runners() as runners:
        for number in range(rounds + 1):
            for name, runner in runners.items():
                cost = agent_cost.execution_cost(runner)
                found["one token"].setdefault(name, []).extend([cost] if number else [])
    return _compared("execution", "CPU of an execution of one token", "ms", found)


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
