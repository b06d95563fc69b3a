"""Computes what 1,000 and 10,000 concurrent executions take, from what was measured.

`--write` takes the figures that were measured last, and updates the table in docs/scale-out.md.
`--check` fails when the table is not what its figures give.
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence

from benchmarks import scale
from benchmarks.processes import ROOT
from benchmarks.report import PAGE as FIGURES
from benchmarks.report import PLOTS

INPUTS = PLOTS / "capacity.json"
"""What the table in the page was computed from."""
PAGE = ROOT / "docs" / "scale-out.md"
TOKENS_PER_SECOND = 30
"""Of each execution, all the time: more than most models write, and none waits for a tool."""
MAX_USE = 0.65
"""Of a core: above it, what waits grows fast."""
KEPT_HOURS = 1
REDIS_GIGABYTES = 16
_BEGIN, _END = "<!-- begin capacity -->\n", "<!-- end capacity -->"


_AGENT = "100 agents: µs of CPU per token"


def measured() -> Mapping[str, float]:
    """Medians of the last run of `scale` that was kept, and what a token costs with an agent by the page of figures."""
    kept = json.loads((PLOTS / "results.json").read_text())["scale"]
    return {name: statistics.median(values) for name, values in kept.items()} | {_AGENT: _agent_microseconds()}


def inputs() -> Mapping[str, float]:
    """What the table in the page was computed from."""
    kept: Mapping[str, float] = json.loads(INPUTS.read_text())
    return kept


def _agent_microseconds() -> float:
    found = re.search(r"^\| 100 agents \| ([\d.]+)", FIGURES.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{FIGURES.name} has no row for 100 agents")
    return float(found[1])


def table(figures: Mapping[str, float]) -> str:
    """The table, and what binds first."""
    shared = figures[scale.REPLICA] - figures[scale.LOCAL]
    replica, redis, memory = figures[_AGENT] + max(shared, 0.0), figures[scale.CROWD_REDIS], figures[scale.MEMORY]
    rows = [_row(count, replica, redis, memory) for count in (1_000, 10_000)]
    head = (
        "| executions at once | tokens/s | replicas of one core | cores of Redis | primaries by CPU "
        f"| log of an hour, GB | primaries of {REDIS_GIGABYTES} GB by memory |"
    )
    bounds = {
        "the memory of Redis": REDIS_GIGABYTES * 1e9 / (TOKENS_PER_SECOND * 3600 * KEPT_HOURS * memory),
        "the CPU of Redis": MAX_USE / (TOKENS_PER_SECOND * redis / 1e6),
    }
    first, second = sorted(bounds, key=lambda each: bounds[each])
    rule = "|" + " --- |" * (head.count("|") - 1)
    remark = (
        f"Each execution writes {TOKENS_PER_SECOND} tokens per second all the time, and is watched at its owner and at "
        f"another replica. A token costs a replica {replica:.0f} µs and Redis {redis:.0f} µs, and takes {memory:.0f} "
        f"bytes there; cores are used to {MAX_USE:.0%}; what has ended is kept for {KEPT_HOURS} hour. With one "
        f"primary, {first} binds first, at {_round(bounds[first]):,} executions, then {second}, at "
        f"{_round(bounds[second]):,}. Replicas bind nothing: more can be added."
    )
    lines = [head, rule, *rows, "", remark]
    return "\n".join(lines) + "\n"


def _row(count: int, replica: float, redis: float, memory: float) -> str:
    rate = count * TOKENS_PER_SECOND
    cores, hour = rate * redis / 1e6, rate * 3600 * KEPT_HOURS * memory / 1e9
    cells = (
        f"{count:,}",
        f"{rate:,}",
        f"{math.ceil(rate * replica / 1e6 / MAX_USE)}",
        f"{cores:.1f}",
        f"{math.ceil(cores / MAX_USE)}",
        f"{hour:.0f}",
        f"{math.ceil(hour / REDIS_GIGABYTES)}",
    )
    return f"| {' | '.join(cells)} |"


def _round(value: float) -> int:
    """Two significant digits."""
    return int(float(f"{value:.2g}"))


def updated(page: str, figures: Mapping[str, float]) -> str:
    """Returns the page with the table between its marks."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no place for the table: {_BEGIN.strip()} … {_END}")
    return before + begin + table(figures) + end + after


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, writes it, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args(arguments)
    page = PAGE.read_text()
    if given.check:
        if updated(page, inputs()) != page:
            print(f"{PAGE.name} has another table than its figures give: make capacity ARGS=--write")
            return 1
        return 0
    figures = measured() if given.write else inputs()
    if given.write:
        INPUTS.write_text(json.dumps(figures, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        PAGE.write_text(updated(page, figures))
    print(table(figures), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
