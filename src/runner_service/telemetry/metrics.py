"""What the service counts and measures. While nobody reads it, a function here costs a tenth of a microsecond.

Nothing holds content. Names that others choose, such as a model's, are bounded in number: after the first fifty it is
`other`. Times are in seconds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

_MOST_NAMES = 50
_LONGEST_NAME = 100
_MOMENTS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_WHILES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)


class Gauge(NamedTuple):
    """A number that is read when somebody asks. `label` tells several such numbers apart; empty: there is only one."""

    name: str
    unit: str
    meaning: str
    label: str = ""


EXECUTIONS = Gauge("runner.executions", "{execution}", "Executions that are running or queued", "state")
EXECUTIONS_LIMIT = Gauge("runner.executions.limit", "{execution}", "How many may be running or queued", "state")
WATCHERS = Gauge("runner.watchers", "{watcher}", "Streams of events that are open")
LOG_BACKLOG = Gauge("runner.log.backlog", "By", "What was published and waits for its commit")
LOG_UNAVAILABLE = Gauge("runner.log.unavailable", "{failure}", "1 while the log cannot be written, else 0")
DAEMON_UNREACHABLE = Gauge("runner.daemon.unreachable", "{failure}", "1 while the Stigmer daemon is not there, else 0")

_GAUGES = (EXECUTIONS, EXECUTIONS_LIMIT, WATCHERS, LOG_BACKLOG, LOG_UNAVAILABLE, DAEMON_UNREACHABLE)

Reading = Callable[[], float | Mapping[str, float]]
"""Reads a gauge, by label if it has one. May be called by any thread."""


class _Instruments:
    """The instruments of one meter."""

    def __init__(self, meter: "Meter") -> None:
        counter, histogram = meter.create_counter, meter.create_histogram
        self.finished = counter("runner.executions.finished", "{execution}", "Executions that ended")
        self.refused = counter("runner.executions.refused", "{execution}", "Executions refused: the queue was full")
        self.tokens = counter("runner.model.tokens", "{token}", "Tokens sent to models, written by them, and cached")
        self.output = counter("runner.output", "By", "What commands wrote")
        self.duration = histogram(
            "runner.execution.duration", "s", "From `started` to the end", explicit_bucket_boundaries_advisory=_WHILES
        )
        self.waited = histogram(
            "runner.queue.wait", "s", "From acceptance to the turn", explicit_bucket_boundaries_advisory=_WHILES
        )
        self.model_call = histogram(
            "runner.model.call.duration", "s", "Tries of model calls", explicit_bucket_boundaries_advisory=_WHILES
        )
        self.tool_call = histogram(
            "runner.tool.call.duration", "s", "Tool calls", explicit_bucket_boundaries_advisory=_WHILES
        )
        self.spawn = histogram(
            "runner.command.spawn.duration", "s", "Starts of commands", explicit_bucket_boundaries_advisory=_MOMENTS
        )
        self.lag = histogram(
            "runner.loop.lag", "s", "How late the event loop is", explicit_bucket_boundaries_advisory=_MOMENTS
        )
        self.commit = histogram(
            "runner.log.commit.duration", "s", "Commits of the log", explicit_bucket_boundaries_advisory=_MOMENTS
        )
        self.batch = histogram(
            "runner.log.batch.size", "{entry}", "Entries of a commit", explicit_bucket_boundaries_advisory=_SIZES
        )
        self.models, self.tools = _FewNames(), _FewNames()
        for gauge in _GAUGES:
            meter.create_observable_gauge(gauge.name, [_observer(gauge)], gauge.unit, gauge.meaning)
        self.refused.add(0)  # a counter that only appears with its first event shows no increase to alert on
        for state, code in (("STATE_SUCCEEDED", ""), ("STATE_FAILED", "INTERNAL")):
            self.finished.add(0, _end(state, code))


class _Current:
    """The instruments in force, and who knows what the gauges show."""

    instruments: _Instruments | None = None
    readings: tuple[Mapping[Gauge, Reading], ...] = ()
    """The newest first. Whoever ends takes away its own, in whatever order several services of a process end."""


@contextmanager
def metrics_by(meter: "Meter") -> Iterator[None]:
    """Makes `meter` the one that everything is recorded with."""
    before, _Current.instruments = _Current.instruments, _Instruments(meter)
    try:
        yield
    finally:
        _Current.instruments = before


@contextmanager
def observed(readings: Mapping[Gauge, Reading]) -> Iterator[None]:
    """Says how these gauges are read, as long as the context is open; of several who say so, the newest counts."""
    _Current.readings = (readings, *_Current.readings)
    try:
        yield
    finally:
        _Current.readings = tuple(each for each in _Current.readings if each is not readings)


def turn_came(waited: float) -> None:
    """An execution may work, after having waited."""
    if instruments := _Current.instruments:
        instruments.waited.record(waited)


def execution_refused() -> None:
    """An execution was refused since the queue is full."""
    if instruments := _Current.instruments:
        instruments.refused.add(1)


def execution_finished(state: "event_pb2.State.ValueType", code: str, elapsed: float) -> None:
    """An execution has ended; `code` is empty when it has an answer."""
    if instruments := _Current.instruments:
        end = _end(event_pb2.State.Name(state), code)
        instruments.finished.add(1, end)
        instruments.duration.record(elapsed, {"state": end["state"]})


def model_called(provider: str, model: str, outcome: str, elapsed: float) -> None:
    """A try of a model call has ended; `outcome` is `succeeded` or the name of what went wrong."""
    if instruments := _Current.instruments:
        attributes = {"provider": provider, "model": instruments.models.bounded(model), "outcome": outcome}
        instruments.model_call.record(elapsed, attributes)


def tokens_used(provider: str, model: str, usage: event_pb2.Usage) -> None:
    """A model call has used tokens. Cached ones are among those that were sent."""
    if instruments := _Current.instruments:
        source = {"provider": provider, "model": instruments.models.bounded(model)}
        instruments.tokens.add(usage.input_tokens, {**source, "type": "input"})
        instruments.tokens.add(usage.output_tokens, {**source, "type": "output"})
        instruments.tokens.add(usage.cached_tokens, {**source, "type": "cached"})


def tool_called(tool: str, outcome: "event_pb2.ToolOutcome.ValueType", elapsed: float) -> None:
    """A tool call has ended."""
    if instruments := _Current.instruments:
        word = event_pb2.ToolOutcome.Name(outcome).removeprefix("TOOL_OUTCOME_").lower()
        instruments.tool_call.record(elapsed, {"tool": instruments.tools.bounded(tool), "outcome": word})


def command_spawned(elapsed: float) -> None:
    """A command was started."""
    if instruments := _Current.instruments:
        instruments.spawn.record(elapsed)


def output_written(stream: str, size: int) -> None:
    """A command wrote `size` bytes."""
    if instruments := _Current.instruments:
        instruments.output.add(size, {"stream": stream})


def loop_lagged(lag: float) -> None:
    """The event loop was `lag` late."""
    if instruments := _Current.instruments:
        instruments.lag.record(lag)


def log_committed(entries: int, elapsed: float) -> None:
    """A batch is in the log."""
    if instruments := _Current.instruments:
        instruments.commit.record(elapsed)
        instruments.batch.record(entries)


class _FewNames:
    """Lets through the first fifty names."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def bounded(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= _MOST_NAMES or len(name) > _LONGEST_NAME:
                return "other"
            self._known.add(name)
        return name


def _end(state: str, code: str) -> dict[str, str]:
    return {"state": state.removeprefix("STATE_").lower(), "code": code}


def _observer(gauge: Gauge) -> "Callable[[CallbackOptions], Iterable[Observation]]":
    from opentelemetry.metrics import Observation  # noqa: PLC0415  # only needed while somebody reads

    def observe(_: "CallbackOptions") -> "Iterable[Observation]":
        reading = next((each[gauge] for each in _Current.readings if gauge in each), None)
        if reading is None:
            return []
        value = reading()
        if isinstance(value, Mapping):
            return [Observation(number, {gauge.label: name}) for name, number in value.items()]
        return [Observation(value)]

    return observe
