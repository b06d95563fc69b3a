"""Results of the last run that was kept, and what has become worse since."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.report import PLOTS, Figure, spread

_FILE = PLOTS / "results.json"


def keep(figure: Figure) -> None:
    """Keeps the values of a figure, in place of those before."""
    kept = {**_kept(), figure.name: {label: _rounded(values) for label, values in figure.values.items()}}
    _FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def worse(figure: Figure) -> Iterator[str]:
    """Says which values have become worse by more than their spread: the median is above all that were kept."""
    before = _kept().get(figure.name, {})
    for label, values in figure.values.items():
        earlier = before.get(label)
        if earlier and statistics.median(values) > max(earlier) and min(values) > statistics.median(earlier):
            yield f"worse: {figure.name}, {label}: {spread(values, '.3g')}, where {spread(earlier, '.3g')} was kept"


def _kept() -> Mapping[str, Mapping[str, Sequence[float]]]:
    try:
        found: Mapping[str, Mapping[str, Sequence[float]]] = json.loads(_FILE.read_text())
    except FileNotFoundError:
        return {}
    return found


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
