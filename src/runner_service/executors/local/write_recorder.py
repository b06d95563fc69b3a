"""Records what file tools change, exactly: the content before and after."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from runner_service.executors.local.paths import Root
from runner_service.executors.local.scanner.files import Content, read_at
from runner_service.executors.protocol import FileError
from runner_service.executors.tracking import FileState, FoundChange

_MAX_KEPT_PATHS = 200


class WriteRecorder:
    """Collects the changes of one sandbox. Any thread may call it."""

    def __init__(self) -> None:
        self._changes: list[FoundChange] = []
        self._paths: dict[str, None] = {}
        self._lock = Lock()

    @contextmanager
    def recording(self, root: Root, path: str) -> Iterator[None]:
        """Records what the block changes at a path, whose lock the caller holds."""
        name, before = _look(root, path)
        yield
        name, after = _look(root, path)
        if before == after or not name:
            return
        contents = {state_of(each).sha256: each.data for each in (before, after) if each and each.data is not None}
        states = [state_of(each) if each else None for each in (before, after)]
        with self._lock:
            self._changes.append(FoundChange(name, states[0], states[1], contents, is_exact=True))
            self._paths.pop(name, None)
            self._paths[name] = None
            if len(self._paths) > _MAX_KEPT_PATHS:
                del self._paths[next(iter(self._paths))]

    def take(self) -> list[FoundChange]:
        """Returns what was recorded since the last call."""
        with self._lock:
            taken, self._changes = self._changes, []
        return taken

    def paths(self) -> list[str]:
        """Returns the paths that were changed last, which are to be looked at even if they are ignored."""
        with self._lock:
            return list(self._paths)


def _look(root: Root, path: str) -> tuple[str, Content | None]:
    """Returns the path relative to the root, following symlinks, and what is there."""
    try:
        with root.locate(path) as place:
            name = os.path.relpath(place.path, root.path)
            try:
                return name, read_at(place.directory, place.name)
            except (OSError, ValueError):
                return name, None
    except FileError:
        return "", None


def state_of(content: Content) -> FileState:
    """Returns the state that a content is."""
    described = content.describe()
    return FileState(content.kind, content.size, str(described["sha256"]), content.identity)
