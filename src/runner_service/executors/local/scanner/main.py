"""The scanner's program: remembers a directory, or writes what has changed in it to standard output.

One request, a line of JSON, comes in; messages go out, each a line of JSON, followed by the bytes that it announces.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

from runner_service.executors.local.scanner.changes import Change, Limits, NotTrackedError, Place
from runner_service.executors.local.scanner.files import Content, last_change
from runner_service.executors.local.scanner.git import GitError
from runner_service.executors.local.scanner.git_tracker import GitTracker

if TYPE_CHECKING:
    from runner_service.executors.local.scanner.walk_tracker import WalkTracker

MAX_CHANGES = 20_000
"""How many changes are told at once."""


def main(arguments: Sequence[str]) -> None:
    """Answers the request in the only argument."""
    request = json.loads(arguments[0])
    output = sys.stdout.buffer
    try:
        _say(output, {"done": True, "files": _answer(request, output)})
    except (NotTrackedError, GitError, OSError) as error:
        _say(output, {"failed": str(error).encode("utf-8", "replace").decode()})
    output.flush()


def _answer(request: Mapping[str, object], output: BinaryIO) -> int:
    root, directory = str(request["root"]), str(request["directory"])
    if request["do"] == "forget":
        shutil.rmtree(directory, ignore_errors=True)
        return 0
    limits = Limits()
    os.makedirs(directory, mode=0o700, exist_ok=True)
    is_home = root == os.path.realpath(os.environ.get("HOME", "/"))
    if request["do"] == "remember" and (root == "/" or (is_home and not request["allows_home"])):
        raise NotTrackedError(f"{root} is not a directory of a project")
    place = Place(root, directory, skips_hidden=is_home)
    tracker = _tracker(place, limits, uses_git=bool(request["uses_git"]))
    if request["do"] == "remember":
        return tracker.remember()
    count = 0
    also = request["also"]
    for change in tracker.changes(also if isinstance(also, list) else []):
        if _is_change(change):
            count += 1
            if count > MAX_CHANGES:
                raise NotTrackedError(f"more than {MAX_CHANGES:,} files were changed at once")
            _send(output, root, change)
    return count


def _tracker(place: Place, limits: Limits, *, uses_git: bool) -> "GitTracker | WalkTracker":
    if uses_git and (program := shutil.which("git")):
        return GitTracker(program, place, limits)
    from runner_service.executors.local.scanner.walk_tracker import WalkTracker  # noqa: PLC0415  # costs more than all others

    return WalkTracker(place, limits)


def _is_change(change: Change) -> bool:
    before, after = change.before, change.after
    if before is None or after is None:
        return before is not after
    return before != after


def _send(output: BinaryIO, root: str, change: Change) -> None:
    sides = {"before": change.before, "after": change.after}
    described = {side: content.describe() if content else None for side, content in sides.items()}
    sizes = [len(content.data) if content and content.data is not None else -1 for content in sides.values()]
    message = {"path": change.path, **described, "sizes": sizes, "changed_at": last_change(root, change.path)}
    _say(output, message)
    for content in sides.values():
        _write(output, content)


def _write(output: BinaryIO, content: Content | None) -> None:
    if content and content.data:
        output.write(content.data)


def _say(output: BinaryIO, message: Mapping[str, object]) -> None:
    output.write(json.dumps(message).encode("ascii") + b"\n")
