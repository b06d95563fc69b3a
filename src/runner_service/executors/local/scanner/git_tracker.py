"""Tracks a directory by git: an index of our own tells which files changed, the user's objects what they held."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from runner_service.executors.local.scanner import repository
from runner_service.executors.local.scanner.changes import Change, Limits, NotTrackedError, Place
from runner_service.executors.local.scanner.files import (
    EXECUTABLE,
    FILE,
    MAX_CONTENT_BYTES,
    REPOSITORY,
    SYMLINK,
    Content,
    Status,
    read_below,
    status_of,
)
from runner_service.executors.local.scanner.git import DirtyEntry, Git, GitError

_KINDS = {"100644": FILE, "100755": EXECUTABLE, "120000": SYMLINK, "160000": REPOSITORY}
_SKIPPED_TAG = b"S"
_HIDDEN_DIRECTORIES = b"/.*/"


class GitTracker:
    """Remembers a directory in an index."""

    def __init__(self, program: str, place: Place, limits: Limits) -> None:
        self._root, self._directory, self._skips_hidden = place
        root, directory = self._root, self._directory
        self._limits = limits
        self._table = f"{directory}/large.json"
        self._repository = repository.find_repository(root)
        self._git = Git(program, directory, self._repository.top if self._repository else root, root)
        self._git.borrowed_objects = self._repository.borrowed_objects if self._repository else ""

    def remember(self) -> int:
        """Remembers the directory as it is now, and returns how many files it has. Raises NotTrackedError."""
        try:
            self._begin(self._repository)
        except GitError:
            if self._repository is None:
                raise
            # An index or objects that this git cannot read: go on without them, within the narrower limits.
            with suppress(FileNotFoundError):
                os.unlink(f"{self._directory}/index")
            self._git.borrowed_objects = ""
            self._begin(None)
        return len(self._git.entries())

    def changes(self, also: Sequence[str]) -> Iterator[Change]:
        """Yields what has changed since it was last remembered, and remembers that. `also` names ignored files."""
        large = self._read_table()
        dirty = {each.path: each for each in self._git.dirty() if each.status != "U" and self._is_readable(each.path)}
        known = {path for _, path in self._git.entries()}.union(dirty) if also else dirty.keys()
        new = dict.fromkeys((*self._git.untracked(), *map(os.fsencode, also)))
        candidates = [*dirty, *(path for path in new if path not in known and self._is_readable(path))]
        before = self._contents_before(dirty.values())
        changed, large = self._remember(candidates, large, dirty)
        self._write_table(large)
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path, old in changed:
                entry = dirty.get(path)
                yield Change(
                    os.fsdecode(path).rstrip("/"),
                    next(before) if entry else old,
                    self._content_now(descriptor, path, entry),
                )
        finally:
            os.close(descriptor)

    def _begin(self, borrowed: repository.Repository | None) -> None:
        repository.make_shadow(self._directory, borrowed)
        if self._skips_hidden:
            repository.exclude(self._directory, _HIDDEN_DIRECTORIES)
        entries = self._git.entries()
        self._limits.require_files(len(entries))
        self._git.update([path for tag, path in entries if tag.upper() == _SKIPPED_TAG], "--no-skip-worktree")
        self._git.update([path for tag, path in entries if tag.islower()], "--no-assume-unchanged")
        converted = self._converted(borrowed, [path for _, path in entries]) if borrowed else []
        repository.end_conversions(self._directory)
        self._git.drop(converted)
        dirty = {entry.path: entry for entry in self._git.dirty() if self._is_readable(entry.path)}
        new = [*dirty, *(path for path in self._git.untracked() if path not in dirty and self._is_readable(path))]
        statuses = {path: status_of(self._full(path)) for path in new}
        stored = [status.size for status in statuses.values() if status and status.size <= MAX_CONTENT_BYTES]
        self._limits.require_files(len(entries) + len(new))
        self._limits.require_new(len(new), sum(stored))
        _, large = self._remember(new, {}, dirty, to_one_pack=True)
        self._write_table(large)

    def _converted(self, borrowed: repository.Repository, paths: list[bytes]) -> list[bytes]:
        """Returns the files whose content may not be that of their objects: a filter or line ends made the difference.

        Whatever converts line ends also changes the size.
        """
        has_attributes = repository.has_attributes(borrowed, self._root, [*paths, *self._git.untracked()])
        if not (has_attributes or repository.converts_line_ends(borrowed)):
            return []
        objects = list(self._git.objects())
        sizes = self._git.sizes([object_id for object_id, _ in objects])
        statuses = (status_of(self._full(path)) for _, path in objects)
        found = zip(objects, sizes, statuses, strict=True)
        other_size = {path for (_, path), size, status in found if status and status.size != size}
        return [*other_size.union(self._git.filtered(paths) if has_attributes else ())]

    def _remember(
        self,
        candidates: Iterable[bytes],
        large: Mapping[str, Sequence[object]],
        dirty: Mapping[bytes, DirtyEntry],
        *,
        to_one_pack: bool = False,
    ) -> tuple[list[tuple[bytes, Content | None]], dict[str, Sequence[object]]]:
        """Remembers files: in the index or, what is large or a repository, in a table.

        Returns what changed, with what the table had of it, and the new table.
        """
        added, dropped, changed, table = [], [], [], dict(large)
        found = {path: self._status(path) for path in candidates}
        vanished = [os.fsencode(path) for path in large if os.fsencode(path) not in found]
        for path, status in {**found, **{path: self._status(path) for path in vanished}}.items():
            name, old = os.fsdecode(path), _from_table(large.get(os.fsdecode(path)))
            is_large = status is not None and (status.kind == REPOSITORY or status.size > MAX_CONTENT_BYTES)
            if is_large and status:
                table[name] = [status.kind, status.size, status.identity]
                if path in dirty:
                    dropped.append(path)
                if path in dirty or old != _from_table(table[name]):
                    changed.append((path, old))
                continue
            if status or old or path in dirty:
                changed.append((path, old))
            table.pop(name, None)
            if status or path in dirty:
                added.append(path)
        self._git.drop(dropped)
        self._git.add(added, to_one_pack=to_one_pack)
        # What is in `dirty` comes first and in its order, as do the contents before.
        order = {path: number for number, path in enumerate(dirty)}
        return sorted(changed, key=lambda each: order.get(each[0], len(order))), table

    def _status(self, path: bytes) -> Status | None:
        if path.endswith(b"/"):
            is_there = os.path.lexists(os.path.join(self._full(path), ".git"))
            return Status(REPOSITORY, 0, 0, 0, 0) if is_there else None
        return status_of(self._full(path))

    def _is_readable(self, path: bytes) -> bool:
        status = self._status(path)
        return status is None or status.kind in {SYMLINK, REPOSITORY} or os.access(self._full(path), os.R_OK)

    def _contents_before(self, dirty: Iterable[DirtyEntry]) -> Iterator[Content]:
        """Yields what the index had of dirty files, in their order."""
        entries = list(dirty)
        sizes = (
            dict(zip(entries, self._git.sizes([each.object_id for each in entries]), strict=True)) if entries else {}
        )
        wanted = [each.object_id for each in entries if 0 <= sizes[each] <= MAX_CONTENT_BYTES]
        contents = self._git.contents(wanted) if wanted else iter(())
        for entry in entries:
            kind, size = _KINDS.get(entry.mode, FILE), max(sizes[entry], 0)
            has_content = 0 <= sizes[entry] <= MAX_CONTENT_BYTES
            yield Content(kind, size, next(contents) if has_content else None, "" if has_content else entry.object_id)

    def _content_now(self, root: int, path: bytes, entry: DirtyEntry | None) -> Content | None:
        if path.endswith(b"/"):
            return Content(REPOSITORY, 0, None, "nested") if self._status(path) else None
        if entry and entry.mode == "160000" and os.path.isdir(self._full(path)):
            return Content(REPOSITORY, 0, None, self._commit_of(path))
        return read_below(root, os.fsdecode(path))

    def _commit_of(self, path: bytes) -> str:
        listed = self._git.run("ls-files", "-s", "-z", "--", f":(literal){os.fsdecode(path)}")
        return listed.split(b" ")[1].decode("ascii") if listed else ""

    def _full(self, path: bytes) -> str:
        return os.path.join(self._root, os.fsdecode(path))

    def _read_table(self) -> dict[str, Sequence[object]]:
        try:
            with open(self._table, encoding="ascii") as file:
                table: dict[str, Sequence[object]] = json.load(file)
                return table
        except (OSError, ValueError) as error:
            raise NotTrackedError("the scanner's directory was deleted while the execution ran") from error

    def _write_table(self, table: Mapping[str, Sequence[object]]) -> None:
        with open(self._table, "w", encoding="ascii") as file:
            json.dump(table, file)


def _from_table(row: Sequence[object] | None) -> Content | None:
    if row is None:
        return None
    kind, size, identity = str(row[0]), int(str(row[1])), str(row[2])
    return Content(kind, size, None, "nested" if kind == REPOSITORY else identity)
