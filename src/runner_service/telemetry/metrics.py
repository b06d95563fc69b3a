"""Metrics. Without a reader, recording costs 0.1 µs.

No metric holds content. Labels that others choose, such as a model's name, are limited to 50 values; further ones
become `other`. Times are in seconds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from runner_service.identity import current_caller
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

_MAX_NAMES = 50
_MAX_TENANTS = 100
_MAX_NAME_CHARACTERS = 100
_SHORT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LONG_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)


class Gauge(NamedTuple):
    """An observable gauge. `label` names the attribute of a gauge with several values; empty for a single value."""

    name: str
    unit: str
    meaning: str
    label: str = ""


EXECUTIONS = Gauge("runner.executions", "{execution}", "Executions that run, are queued or wait for approval", "state")
EXECUTIONS_LIMIT = Gauge("runner.executions.limit", "{execution}", "How many may be running or queued", "state")
WATCHERS = Gauge("runner.watchers", "{watcher}", "Streams of events that are open")
LOG_BACKLOG = Gauge("runner.log.backlog", "By", "What was published and waits for its commit")
LOG_UNAVAILABLE = Gauge("runner.log.unavailable", "{failure}", "1 while the log cannot be written, else 0")
DAEMON_UNREACHABLE = Gauge("runner.daemon.unreachable", "{failure}", "1 while the Stigmer daemon is not there, else 0")

TEMPORAL_UNREACHABLE = Gauge("runner.temporal.unreachable", "{failure}", "1 while Temporal does not answer, else 0")
TEMPORAL_ACTIVITIES = Gauge("runner.temporal.activities", "{activity}", "Activities that are not completed yet")

JWKS_AGE = Gauge("runner.jwks.age", "s", "Since the keys of an issuer were last read", "issuer")
CALLERS_FILE_UNUSABLE = Gauge("runner.callers.file.unusable", "{failure}", "1 while CALLERS_FILE is wrong, else 0")

WARM_SANDBOXES = Gauge("runner.sandboxes.warm", "{sandbox}", "Cloud sandboxes that are started and wait for a session")
_GAUGES = (
    JWKS_AGE,
    CALLERS_FILE_UNUSABLE,
    WARM_SANDBOXES,
    TEMPORAL_UNREACHABLE,
    TEMPORAL_ACTIVITIES,
    EXECUTIONS,
    EXECUTIONS_LIMIT,
    WATCHERS,
    LOG_BACKLOG,
    LOG_UNAVAILABLE,
    DAEMON_UNREACHABLE,
)

Reading = Callable[[], float | Mapping[str, float]]
"""Reads a gauge, by label if it has one. May be called by any thread."""


class _Instruments:
    """The instruments of one meter."""

    def __init__(self, meter: "Meter") -> None:
        counter, histogram = meter.create_counter, meter.create_histogram
        self.finished = counter("runner.executions.finished", "{execution}", "Executions that ended")
        self.refused = counter("runner.executions.refused", "{execution}", "Executions refused: the queue was full")
        self.sandboxes = counter("runner.sandboxes.opened", "{sandbox}", "Cloud sandboxes, by where they came from")
        self.tokens = counter("runner.model.tokens", "{token}", "Tokens sent to models, written by them, and cached")
        self.cost = counter("runner.model.cost", "{unit}", "What model calls cost, in the currency of PRICES_FILE")
        self.output = counter("runner.output", "By", "What commands wrote")
        self.duration = histogram(
            "runner.execution.duration",
            "s",
            "From `started` to the end",
            explicit_bucket_boundaries_advisory=_LONG_SECONDS,
        )
        self.waited = histogram(
            "runner.queue.wait", "s", "From acceptance to the turn", explicit_bucket_boundaries_advisory=_LONG_SECONDS
        )
        self.model_call = histogram(
            "runner.model.call.duration", "s", "Tries of model calls", explicit_bucket_boundaries_advisory=_LONG_SECONDS
        )
        self.tool_call = histogram(
            "runner.tool.call.duration", "s", "Tool calls", explicit_bucket_boundaries_advisory=_LONG_SECONDS
        )
        self.spawn = histogram(
            "runner.command.spawn.duration",
            "s",
            "Starts of commands",
            explicit_bucket_boundaries_advisory=_SHORT_SECONDS,
        )
        self.lag = histogram(
            "runner.loop.lag", "s", "How late the event loop is", explicit_bucket_boundaries_advisory=_SHORT_SECONDS
        )
        self.commit = histogram(
            "runner.log.commit.duration", "s", "Commits of the log", explicit_bucket_boundaries_advisory=_SHORT_SECONDS
        )
        self.batch = histogram(
            "runner.log.batch.size", "{entry}", "Entries of a commit", explicit_bucket_boundaries_advisory=_COUNTS
        )
        self.models, self.tools = _BoundedNames(), _BoundedNames()
        for gauge in _GAUGES:
            meter.create_observable_gauge(gauge.name, [_observer(gauge)], gauge.unit, gauge.meaning)
        self.refused.add(0)  # a counter that only appears with its first event shows no increase to alert on
        for state, code in (("STATE_SUCCEEDED", ""), ("STATE_FAILED", "INTERNAL")):
            self.finished.add(0, _end(state, code))


class _Current:
    """The instruments in use, and the functions that read the gauges."""

    tenants: frozenset[str] = frozenset()
    """Those that metrics name; without any, they name none."""

    instruments: _Instruments | None = None
    readings: tuple[Mapping[Gauge, Reading], ...] = ()
    """Newest first. Each service of the process removes its own, in any order."""


@contextmanager
def using_meter(meter: "Meter") -> Iterator[None]:
    """Records everything with `meter` inside the context."""
    before, _Current.instruments = _Current.instruments, _Instruments(meter)
    try:
        yield
    finally:
        _Current.instruments = before


@contextmanager
def gauges_observed(readings: Mapping[Gauge, Reading]) -> Iterator[None]:
    """Registers functions that read these gauges, while the context is open; the newest registration wins."""
    _Current.readings = (readings, *_Current.readings)
    try:
        yield
    finally:
        _Current.readings = tuple(each for each in _Current.readings if each is not readings)


def set_tenants(names: Iterable[str]) -> None:
    """Makes metrics of executions name their tenant: the first 100 of these, others as `other`."""
    _Current.tenants = frozenset(sorted(names)[:_MAX_TENANTS])


def queue_wait_ended(waited: float) -> None:
    """An execution left the queue after `waited` seconds."""
    if instruments := _Current.instruments:
        instruments.waited.record(waited)


def sandbox_opened(origin: str) -> None:
    """A cloud sandbox was opened: a `new` one, an `existing` one, or a `warm` one."""
    if instruments := _Current.instruments:
        instruments.sandboxes.add(1, {"origin": origin})


def execution_refused() -> None:
    """An execution was refused because the queue is full."""
    if instruments := _Current.instruments:
        instruments.refused.add(1)


def execution_finished(state: "event_pb2.State.ValueType", code: str, elapsed: float) -> None:
    """An execution has ended; `code` is its error code, empty on success."""
    if instruments := _Current.instruments:
        end = _end(event_pb2.State.Name(state), code)
        instruments.finished.add(1, end | _tenant())
        instruments.duration.record(elapsed, {"state": end["state"]} | _tenant())


def model_called(provider: str, model: str, outcome: str, elapsed: float) -> None:
    """An attempt at a model call has ended; `outcome` is `succeeded` or an error name."""
    if instruments := _Current.instruments:
        attributes = {"provider": provider, "model": instruments.models.bounded(model), "outcome": outcome}
        instruments.model_call.record(elapsed, attributes)


def tokens_used(provider: str, model: str, usage: event_pb2.Usage) -> None:
    """A model call has used tokens. Cached ones are among those that were sent."""
    if instruments := _Current.instruments:
        source = {"provider": provider, "model": instruments.models.bounded(model)} | _tenant()
        instruments.tokens.add(usage.input_tokens, {**source, "type": "input"})
        instruments.tokens.add(usage.output_tokens, {**source, "type": "output"})
        instruments.tokens.add(usage.cached_tokens, {**source, "type": "cached"})


def cost_added(provider: str, model: str, cost: event_pb2.Cost) -> None:
    """A model call has cost something."""
    if (instruments := _Current.instruments) and cost.nanos:
        source = {
            "provider": provider,
            "model": instruments.models.bounded(model),
            "currency": cost.currency,
        } | _tenant()
        instruments.cost.add(cost.nanos / 1e9, source)


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


class _BoundedNames:
    """Passes the first 50 names; later ones become `other`."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def bounded(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= _MAX_NAMES or len(name) > _MAX_NAME_CHARACTERS:
                return "other"
            self._known.add(name)
        return name


def _tenant() -> dict[str, str]:
    caller = current_caller.get(None)
    if not _Current.tenants or caller is None:
        return {}
    return {"tenant": caller.tenant if caller.tenant in _Current.tenants else "other"}


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
