"""Runs git on our own repository, with the user's files as its working tree."""

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

MISSING = "0" * 40
_REGULAR_BLOB = b"blob"


class GitError(Exception):
    """Git failed; the text is what it said."""


class DirtyEntry(NamedTuple):
    """A path whose file is no longer as the index has it: the mode and the object of the index, the status of git."""

    path: bytes
    mode: str
    object_id: str
    status: str


class Git:
    """Git with an index and objects of our own. Settings of the user and of the machine are not read."""

    borrowed_objects = ""
    """Where objects are read, but never written: writing one that is there would change its time."""

    def __init__(self, program: str, directory: str, work_tree: str, root: str) -> None:
        self._program = program
        self._root = root
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR") if name in os.environ}
        self._environment = {
            **kept,
            "GIT_DIR": directory,
            "GIT_WORK_TREE": work_tree,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "LC_ALL": "C",
        }

    def run(self, *arguments: str, given: bytes = b"", accepts: Sequence[int] = (0,), borrows: bool = True) -> bytes:
        """Runs git with `given` as its input, and returns its output. Raises GitError."""
        ran = subprocess.run(  # noqa: S603  # git's own path, and arguments of ours
            [self._program, *arguments],
            cwd=self._root,
            env=self._environment_with(self.borrowed_objects if borrows else ""),
            input=given,
            capture_output=True,
            check=False,
        )
        if ran.returncode not in accepts:
            said = ran.stderr.decode("utf-8", "replace").strip()
            raise GitError(f"git {arguments[0]}: {said[-300:] or ran.returncode}")
        return ran.stdout

    def _environment_with(self, borrowed_objects: str) -> dict[str, str]:
        borrowed = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": borrowed_objects} if borrowed_objects else {}
        return {**self._environment, **borrowed}

    def dirty(self) -> list[DirtyEntry]:
        """Returns the files that are not as the index has them. A submodule is entered by no other git."""
        options = ("--raw", "-z", "--no-abbrev", "--no-renames", "--ignore-submodules=dirty", "--relative")
        fields = self.run("diff-files", *options, "--", ".").split(b"\0")
        found = []
        for header, path in zip(fields[::2], fields[1::2], strict=False):
            old_mode, _, object_id, _, status = header[1:].decode("ascii").split(" ")
            found.append(DirtyEntry(path, old_mode, object_id, status))
        return found

    def untracked(self) -> list[bytes]:
        """Returns the files that are neither in the index nor ignored; a nested repository ends with a slash."""
        return _split(self.run("ls-files", "-o", "-z", "--exclude-standard", "--", "."))

    def entries(self) -> list[tuple[bytes, bytes]]:
        """Returns the tag that git gives to each file of the index, and its path."""
        return [(line[:1], line[2:]) for line in _split(self.run("ls-files", "-v", "-z", "--", "."))]

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """Yields the object and the path of each file of the index."""
        for line in _split(self.run("ls-files", "-s", "-z", "--", ".")):
            meta, _, path = line.partition(b"\t")
            mode, object_id, _ = meta.split(b" ")
            if mode != b"160000":
                yield object_id.decode("ascii"), path

    def add(self, paths: Iterable[bytes], *, to_one_pack: bool = False) -> None:
        """Brings files of the index up to date: added, changed and removed ones. What cannot be read stays as it is."""
        if names := b"".join(path + b"\0" for path in paths):
            pack = ("-c", "core.bigFileThreshold=1") if to_one_pack else ()
            options = ("update-index", "-z", "--add", "--remove", "--replace", "--stdin")
            self.run(*pack, *options, given=names, accepts=(0, 1, 128), borrows=False)

    def drop(self, paths: Iterable[bytes]) -> None:
        """Removes files from the index."""
        self.update(paths, "--force-remove")

    def update(self, paths: Iterable[bytes], option: str) -> None:
        """Applies an option of update-index to files of the index."""
        if names := b"".join(path + b"\0" for path in paths):
            self.run("update-index", option, "-z", "--stdin", given=names)

    def sizes(self, object_ids: Sequence[str]) -> list[int]:
        """Returns the sizes of objects; -1 for those that are missing."""
        asked = "".join(f"{each}\n" for each in object_ids).encode()
        lines = self.run("cat-file", "--batch-check", given=asked).splitlines()
        return [int(fields[2]) if (fields := line.split(b" "))[1] == _REGULAR_BLOB else -1 for line in lines]

    def contents(self, object_ids: Sequence[str]) -> Iterator[bytes]:
        """Yields the content of objects that are there, one at a time."""
        process = subprocess.Popen(  # noqa: S603  # as above
            [self._program, "cat-file", "--batch"],
            cwd=self._root,
            env=self._environment_with(self.borrowed_objects),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with process:
            assert process.stdin  # noqa: S101  # as asked for
            assert process.stdout  # noqa: S101  # as asked for
            for object_id in object_ids:
                process.stdin.write(f"{object_id}\n".encode())
                process.stdin.flush()
                size = int(process.stdout.readline().split(b" ")[2])
                data = process.stdout.read(size + 1)
                yield data[:-1]
            process.stdin.close()

    def filtered(self, paths: Iterable[bytes]) -> list[bytes]:
        """Returns the files whose content goes through a filter or another encoding, by attributes. Runs no filter."""
        given = b"".join(path + b"\0" for path in paths)
        options = ("check-attr", "-z", "--stdin", "filter", "working-tree-encoding")
        fields = self.run(*options, given=given).split(b"\0")
        triples = zip(fields[::3], fields[1::3], fields[2::3], strict=False)
        return [path for path, _, value in triples if value not in {b"unspecified", b"unset"}]


def _split(output: bytes) -> list[bytes]:
    return [each for each in output.split(b"\0") if each]
