"""Figures as tables and plots, for the terminal and for docs/performance.md."""

import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import ROOT

PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"

_COLOURS = ("#2b6cb0", "#a0aec0", "#dd6b20", "#718096")


@dataclass(frozen=True)
class Plot:
    """Bars: for each label one of each series. `goal` is drawn as a line across."""

    unit: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float]]
    goal: float | None = None
    logarithmic: bool = False


@dataclass(frozen=True)
class Figure:
    """What was measured: the first row of the table is its head.

    `values` are kept and compared from run to run, so they are ratios where there is something to compare with; less is
    better.
    """

    name: str
    title: str
    table: Sequence[Sequence[str]]
    plot: Plot
    values: Mapping[str, Sequence[float]]
    remarks: Sequence[str] = field(default=())

    def markdown(self) -> str:
        """The table as it stands in the page."""
        head, *rows = (f"| {' | '.join(row)} |" for row in self.table)
        rule = "|" + " --- |" * len(self.table[0])
        return "\n".join([head, rule, *rows, *(f"\n{remark}" for remark in self.remarks)])


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """The median, and in brackets the least and the most."""
    middle = f"{statistics.median(values):{form}}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} – {max(values):{form}})"


def ratio(values: Sequence[float], reference: Sequence[float]) -> str:
    """How many times as much as the reference, by medians."""
    return f"{statistics.median(values) / statistics.median(reference):.2f}"


def ratios(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """How many times as much as the median of the reference each is."""
    return [each / statistics.median(reference) for each in values]


def machine() -> str:
    """One line about where and when this was measured."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), Linux {platform.release()}, "
        f"CPython {platform.python_version()}, load average {load:.1f} at the end of the run."
    )


def write(figure: Figure) -> None:
    """Puts table and plot of a figure into the page, between its marks."""
    begin, end = f"<!-- begin {figure.name} -->", f"<!-- end {figure.name} -->"
    text = PAGE.read_text()
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{PAGE.name} has no place for {figure.name}: {begin} … {end}")
    picture = f"![{figure.title}](performance/{figure.name}.svg)"
    PAGE.write_text(f"{before}{begin}\n{figure.markdown()}\n\n{picture}\n\n{machine()}\n{end}{after}")
    draw(figure, PLOTS / f"{figure.name}.svg")


def draw(figure: Figure, path: Path) -> None:
    """Draws the plot of a figure."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": figure.name, "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    plot = figure.plot
    drawing, axes = plt.subplots(figsize=(6.4, 2.6))
    width = 0.8 / len(plot.series)
    for position, (name, values) in enumerate(plot.series.items()):
        places = [index + (position - (len(plot.series) - 1) / 2) * width for index in range(len(values))]
        bars = axes.bar(places, values, width * 0.9, label=name, color=_COLOURS[position % len(_COLOURS)])
        axes.bar_label(bars, fmt="%.3g", padding=1, fontsize=8)
    if plot.goal is not None:
        axes.axhline(plot.goal, color="#2f855a", linewidth=1, linestyle="--", label=f"goal: {plot.goal:g}")
    if plot.logarithmic:
        axes.set_yscale("log")
    axes.margins(y=0.18)
    axes.set_ylabel(plot.unit)
    axes.set_title(figure.title, fontsize=10)
    axes.set_xticks(range(len(plot.labels)), plot.labels)
    axes.spines[["top", "right"]].set_visible(False)
    if len(plot.series) > 1 or plot.goal is not None:
        axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(exist_ok=True)
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)
