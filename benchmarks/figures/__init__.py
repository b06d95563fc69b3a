"""Which figures there are, and how each is measured. `rounds` says how often, all subjects in turns."""

from collections.abc import Callable

from benchmarks.figures.agents import crowds, executions, growth, providers, steps, tokens
from benchmarks.figures.confinement import confinement
from benchmarks.figures.service import footprints, hot_paths, protected_run, seam
from benchmarks.figures.streams import events, replicas, reports
from benchmarks.report import Figure

FIGURES: dict[str, Callable[[int], Figure]] = {
    "events": events,
    "tokens": tokens,
    "providers": providers,
    "execution": executions,
    "steps": steps,
    "growth": growth,
    "start": footprints,
    "crowd": crowds,
    "seam": seam,
    "confinement": confinement,
    "protections": protected_run,
    "reporting": reports,
    "scale": replicas,
    "instructions": hot_paths,
}
