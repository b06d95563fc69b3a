"""Readiness of the service: its stage, and what keeps it from starting executions."""

import asyncio
from collections.abc import Collection
from enum import Enum

from runner_service.errors import UnavailableError
from runner_service.events.writer import LogWriter

DISK = "disk"
"""Holds the service up while its disk is full: see `disk_guard`."""

_RETRY_DELAY_SECONDS = 1.0  # by then a load balancer has seen NOT_SERVING, or a successor listens
_RETRY_DELAY_WHEN_FULL_SECONDS = 5.0


class Stage(Enum):
    """Where the life of the service stands. It only moves on, never back."""

    STARTING = 1
    SERVING = 2
    DRAINING = 3
    STOPPED = 4


class Readiness:
    """The stage that the service is in. Every method is for the event loop's thread and returns at once."""

    def __init__(self) -> None:
        self._stage = Stage.STARTING
        self._changed = asyncio.Event()
        self._neighbours: dict[str, bool] = {}
        self._held_up: set[str] = set()

    @property
    def stage(self) -> Stage:
        """The stage as it is now."""
        return self._stage

    def set_serving(self) -> None:
        """Begins to take calls."""
        self._advance(Stage.SERVING)

    def set_draining(self) -> None:
        """Begins to refuse what would start work. Attaching, watching and cancelling go on."""
        self._advance(Stage.DRAINING)

    def set_stopped(self) -> None:
        """Refuses everything but health checks, and ends those that watch health."""
        self._advance(Stage.STOPPED)

    @property
    def takes_work(self) -> bool:
        """Whether something new can start: it is what readiness shows."""
        return self._stage is Stage.SERVING and not self._held_up

    def set_held_up(self, by: str, *, is_held_up: bool) -> None:
        """Shows whether something is missing that the service cannot work without, such as `by` room for its log."""
        (self._held_up.add if is_held_up else self._held_up.discard)(by)
        self._announce()

    def require_serving(self) -> None:
        """Lets something new start.

        Raises:
            UnavailableError: the service has not started yet, is about to stop, or has a full disk.
        """
        if self._stage is not Stage.SERVING:
            raise self.unavailable()
        if DISK in self._held_up:
            raise UnavailableError(
                "the disk of STATE_DIR is full: make room", retry_delay=_RETRY_DELAY_WHEN_FULL_SECONDS
            )

    def require_not_stopped(self) -> None:
        """Lets a call in.

        Raises:
            UnavailableError: the service has stopped.
        """
        if self._stage is Stage.STOPPED:
            raise self.unavailable()

    def unavailable(self) -> UnavailableError:
        """Returns the refusal that fits the stage."""
        why = "is starting" if self._stage is Stage.STARTING else "is stopping"
        return UnavailableError(f"the service {why}; call again", retry_delay=_RETRY_DELAY_SECONDS)

    def set_neighbour(self, name: str, *, is_there: bool) -> None:
        """Shows, as a health service of that name, whether something is there that the service can do without."""
        self._neighbours[name] = is_there
        self._announce()

    def neighbour(self, name: str) -> bool | None:
        """Tells whether something is there; None when there is nothing of that name."""
        return self._neighbours.get(name)

    def neighbours(self) -> Collection[str]:
        """Returns the names of everything that `set_neighbour` was called for."""
        return self._neighbours

    async def changed(self) -> None:
        """Waits for the next change of anything that health shows."""
        await self._changed.wait()

    def _advance(self, stage: Stage) -> None:
        if stage.value <= self._stage.value:
            return
        self._stage = stage
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def require_ready(readiness: Readiness, writer: LogWriter) -> None:
    """Lets something begin. Raises UnavailableError: the service is not ready, or its log cannot be written."""
    readiness.require_serving()
    if writer.broken:
        raise UnavailableError(writer.broken.message, retry_delay=5.0)
