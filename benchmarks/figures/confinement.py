"""Figures of confined executions. `rounds` says how often each is measured."""

import asyncio
import statistics
from typing import TYPE_CHECKING

from benchmarks import cells
from benchmarks.report import Figure, Plot, ratio, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIMES = 100
_CELLS = 64


def confinement(rounds: int) -> Figure:
    """What a cell costs."""
    found, crowds = asyncio.run(cells.measure(rounds, times=_TIMES, cells=_CELLS))
    commands = [statistics.median(pair[0] for pair in each.commands) for each in found]
    in_cell = [statistics.median(pair[1] for pair in each.commands) for each in found]
    rows = {
        f"`true`, median of {_TIMES}": (commands, in_cell),
        "opening, until a first command has run": _columns([each.first for each in found]),
        "a first command, half a second later": _columns([each.later for each in found]),
        "closing": _columns([each.closing for each in found]),
    }
    table: list[Sequence[str]] = [("ms", "without", "in a cell", "× without")]
    table += [(label, spread(free), spread(cell), ratio(cell, free)) for label, (free, cell) in rows.items()]
    seconds, memory = [each.seconds for each in crowds], [each.mebibytes for each in crowds]
    until = "until a command has run in each"
    remark = f"{_CELLS} cells opened at once: {spread(seconds)} s {until}, {spread(memory)} MiB each."
    opening = rows["opening, until a first command has run"][1]
    values = {
        "`true`, × without": [statistics.median(pair[1] / pair[0] for pair in each.commands) for each in found],
        "opening, ms": opening,
        f"{_CELLS} at once, s": seconds,
        "memory, MiB": memory,
    }
    series = {
        "without": [statistics.median(free) for free, _ in rows.values()],
        "in a cell": [statistics.median(cell) for _, cell in rows.values()],
    }
    plot = Plot("ms", ["`true`", "opening and a command", "a command later", "closing"], series, goal=100)
    return Figure("confinement", "Confined executions: what a cell costs", table, plot, values, [remark])


def _columns(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [free for free, _ in pairs], [cell for _, cell in pairs]
