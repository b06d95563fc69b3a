"""Which executions of this process work in the same directory."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from runner_service.executors.tracking import FileState, FoundChange
from runner_service.settings.machine import usable_cores

_MAX_RESTORED = 10_000
_MAX_PAST_WORKERS = 64
_MAX_AHEAD = usable_cores()


class Worker(Protocol):
    """An execution that works in a directory."""

    @property
    def place(self) -> str:
        """The directory; empty if it has it for itself."""

    def was_active_since(self, moment: float) -> bool:
        """Returns whether a call of it ran at or after a Unix time."""

    def has_written(self, path: str, state: FileState | None) -> bool:
        """Returns whether a file tool of it left a file, by its absolute path, in a state."""


@dataclass(frozen=True)
class PastWorker:
    """What is remembered of an execution that has ended: another may find its changes later."""

    place: str
    last_active: float
    written: Mapping[str, FileState | None]
    """What its file tools left, by the path relative to the directory."""

    def was_active_since(self, moment: float) -> bool:
        """Implements `Worker`."""
        return self.last_active >= moment

    def has_written(self, path: str, state: FileState | None) -> bool:
        """Implements `Worker`."""
        name = path.removeprefix(f"{self.place}/")
        return name in self.written and self.written[name] == state


class Workspaces:
    """The executions that run. One for each process."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []
        self._past: deque[Worker] = deque(maxlen=_MAX_PAST_WORKERS)
        self._restored: dict[str, FileState | None] = {}

    def enter(self, worker: Worker) -> None:
        """Adds an execution."""
        self._workers.append(worker)

    def leave(self, worker: Worker, past: PastWorker) -> None:
        """Removes an execution, of which some things are remembered."""
        self._workers.remove(worker)
        self._past.append(past)

    @property
    def is_crowded(self) -> bool:
        """Whether so many run that looking at files ahead of calls would take the CPU of others."""
        return len(self._workers) > _MAX_AHEAD

    def note_restored(self, path: str, state: FileState | None) -> None:
        """Notes that a revert has left a file, by its absolute path, in a state: a scan may find it later."""
        self._restored.pop(path, None)
        self._restored[path] = state
        if len(self._restored) > _MAX_RESTORED:
            del self._restored[next(iter(self._restored))]

    def is_anothers(self, worker: Worker, change: FoundChange) -> bool:
        """Returns whether a file tool of another execution, or a revert, made a change that `worker` has found."""
        path = f"{worker.place}/{change.path}"
        if path in self._restored and self._restored[path] == change.after:
            return True
        return any(each.has_written(path, change.after) for each in self._neighbours(worker))

    def is_shared(self, worker: Worker, since: float) -> bool:
        """Returns whether another execution may have made changes in the same directory since a Unix time."""
        return any(each.was_active_since(since) for each in self._neighbours(worker))

    def _neighbours(self, worker: Worker) -> Iterator[Worker]:
        for each in (*self._workers, *self._past):
            if each is not worker and worker.place and each.place and _overlap(each.place, worker.place):
                yield each


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
