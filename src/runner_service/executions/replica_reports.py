"""What each replica is doing, for the page of the operator: who owns what, the queue, rates, lag."""

import json
import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from runner_service import states
from runner_service.events.writer import LogWriter
from runner_service.executions.lifecycle import Lifecycle
from runner_service.executions.readiness import Readiness
from runner_service.executions.registry import Registry
from runner_service.identity import bare_id, tenant_of
from runner_service.storage.ownership import Replicas
from runner_service.telemetry.loop_lag import LoopLag
from runner_service.version import VERSION

logger = logging.getLogger(__name__)

_MAX_LISTED = 100
_RATE_WINDOW_SECONDS = 60.0
_SAMPLE_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """One replica at one moment."""

    name: str
    address: str
    version: str
    process: int
    started_at: float
    """Unix time, as `reported_at`."""
    reported_at: float
    stage: str
    """`serving`, `draining`, …; `held up` while something is missing that it cannot work without."""
    running: int
    queued: int
    """Over all replicas."""
    waiting: int
    """Parked for an approval."""
    watchers: int
    events_per_second: float
    """Over the last minute, as the next."""
    ended_per_minute: float
    backlog_bytes: int
    """What is published and not committed yet."""
    loop_lag_seconds: float
    """The highest of the last 10 s."""
    executions: Sequence[Mapping[str, str]] = field(default=())
    """`tenant`, `execution_id` and `state` of the first 100 that it owns."""


class ReplicaReporter:
    """Reports what this process does, and reads the reports of the others. Belongs to the event loop."""

    def __init__(
        self,
        registry: Registry,
        writer: LogWriter,
        lifecycle: Lifecycle,
        readiness: Readiness,
        lag: LoopLag,
        replicas: Replicas | None,
    ) -> None:
        self._registry = registry
        self._writer = writer
        self._readiness = readiness
        self._lag = lag
        self._replicas = replicas
        self._lifecycle = lifecycle
        self._started_at = time.time()
        self._samples: deque[tuple[float, int, int]] = deque([(time.monotonic(), 0, 0)])
        self.address = ""
        """Where this replica listens, once it does."""

    @property
    def name(self) -> str:
        """The name of this replica, new with each start."""
        return self._replicas.name if self._replicas else "local"

    async def publish(self) -> None:
        """Shows the report of this replica to the others. Raises LogError."""
        if self._replicas:
            await self._replicas.report(json.dumps(asdict(self._own())).encode())

    async def all(self) -> list[ReplicaReport]:
        """Returns the reports of the replicas with a lease, this one first. Raises LogError."""
        others = await self._replicas.reports() if self._replicas else {}
        parsed = [_parsed(data) for name, data in sorted(others.items()) if name != self.name]
        return [self._own(), *(each for each in parsed if each)]

    def _own(self) -> ReplicaReport:
        counts = self._lifecycle.counts()
        events, ended = self._rates()
        return ReplicaReport(
            name=self.name,
            address=self.address,
            version=VERSION,
            process=os.getpid(),
            started_at=self._started_at,
            reported_at=time.time(),
            stage=self._stage(),
            running=counts["running"],
            queued=counts["queued"],
            waiting=counts["waiting"],
            watchers=self._registry.watchers,
            events_per_second=round(events, 1),
            ended_per_minute=round(ended * 60, 1),
            backlog_bytes=self._writer.backlog,
            loop_lag_seconds=round(self._lag.highest_seconds, 4),
            executions=self._owned(),
        )

    def _stage(self) -> str:
        name = self._readiness.stage.name.lower()
        return "held up" if name == "serving" and not self._readiness.takes_work else name

    def _owned(self) -> list[Mapping[str, str]]:
        own = (each for each in self._registry.in_memory() if each.is_active and not each.is_remote)
        return [
            {"tenant": tenant_of(each.id), "execution_id": bare_id(each.id), "state": states.state_name(each.state)}
            for each, _ in zip(own, range(_MAX_LISTED), strict=False)
        ]

    def _sample(self) -> None:
        now = time.monotonic()
        if self._samples and now - self._samples[-1][0] < _SAMPLE_INTERVAL_SECONDS:
            return
        self._samples.append((now, self._writer.committed_events, self._lifecycle.ended))
        while len(self._samples) > 1 and now - self._samples[1][0] > _RATE_WINDOW_SECONDS:
            self._samples.popleft()

    def _rates(self) -> tuple[float, float]:
        """Returns events and ends per second."""
        self._sample()
        first_at, first_events, first_ended = self._samples[0]
        seconds = max(time.monotonic() - first_at, _SAMPLE_INTERVAL_SECONDS)
        return (
            (self._writer.committed_events - first_events) / seconds,
            (self._lifecycle.ended - first_ended) / seconds,
        )


def _parsed(data: bytes) -> ReplicaReport | None:
    """Returns a report of another replica, which may be of another version; None for one that does not fit."""
    try:
        found: Any = json.loads(data)
        return ReplicaReport(**{name: found[name] for name in ReplicaReport.__dataclass_fields__})
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("replica_report_unreadable error=%s", error)
        return None
