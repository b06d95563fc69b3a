"""The cases in which changes are found and taken back: directories of every kind, and what is done in them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.changes.repositories import git, repository, write

BEFORE = {
    "a.txt": b"1\n2\n3\n",
    "gone.txt": b"gone\n",
    "run.sh": b"#!/bin/sh\n",
    "dir/binary": bytes(range(256)),
    "dir/crlf.txt": b"one\r\ntwo\r\n",
    "file": b"a file that becomes a directory\n",
    "tree/below": b"a directory that becomes a file\n",
    "\u00fcber name\n.txt": b"odd\n",
}
COMMAND = (
    "sed -i s/2/two/ a.txt; rm gone.txt; chmod +x run.sh; mkdir -p new/deep; echo x > new/deep/file; ln -s a.txt link; "
    "printf '\\0\\1' > dir/binary; printf 'one\\r\\n2\\r\\n' > dir/crlf.txt; rm file; mkdir file; echo y > file/below; "
    "rm -r tree; echo z > tree; echo more >> *name*; printf 'n' > $'\\xff bytes'; echo 1 > './-rf'"
)
CHANGED = 14


class Case(NamedTuple):
    """A directory, as `make` makes it below a new one; it returns the root. `expected`: how many paths change."""

    name: str
    make: Callable[[Path], Path]
    expected: int = CHANGED
    repositories: Sequence[str] = (".git",)
    """Directories of git that have to stay as they are, relative to the new directory."""


def _plain(base: Path) -> Path:
    write(base, BEFORE)
    return base


def _clean(base: Path) -> Path:
    return repository(base, BEFORE)


def _dirty(base: Path) -> Path:
    repository(base, {**BEFORE, "a.txt": b"committed\n", "gone.txt": b"other\n"})
    write(base, BEFORE)
    git(base, "add", "gone.txt")
    write(base, {"untracked.txt": b"u\n"})
    return base


def _empty(base: Path) -> Path:
    base.mkdir(exist_ok=True)
    git(base, "init", "-q")
    write(base, BEFORE)
    return base


def _worktree(base: Path) -> Path:
    repository(base / "main", BEFORE)
    git(base / "main", "worktree", "add", "-q", str(base / "linked"))
    return base / "linked"


def _subdirectory(base: Path) -> Path:
    repository(base, {f"below/{name}": data for name, data in BEFORE.items()} | {"above.txt": b"1\n"})
    return base / "below"


def _bare(base: Path) -> Path:
    base.mkdir(exist_ok=True)
    git(base, "init", "-q", "--bare")
    write(base, BEFORE)
    return base


def _merging(base: Path) -> Path:
    repository(base, BEFORE)
    for branch, text in (("one", b"one\n"), ("two", b"two\n")):
        git(base, "checkout", "-q", "-b", branch, "main")
        write(base, {"conflict.txt": text})
        git(base, "add", "-A")
        git(base, "commit", "-qm", branch)
    git(base, "merge", "one", check=False)
    return base


def _rebasing(base: Path) -> Path:
    _merging(base)
    git(base, "merge", "--abort")
    git(base, "rebase", "one", check=False)
    return base


def _sparse(base: Path) -> Path:
    repository(base, {**BEFORE, "other/file": b"1\n"})
    git(base, "sparse-checkout", "set", "--no-cone", "/*", "!/other/")
    return base


def _with_submodule(base: Path) -> Path:
    repository(base / "library", {"l.txt": b"l\n"})
    root = repository(base / "main", BEFORE)
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(base / "library"), "sub")
    git(root, "commit", "-qm", "submodule")
    return root


def _line_ends(base: Path) -> Path:
    return repository(base, {**BEFORE, ".gitattributes": b"* text=auto\n*.sh ident\n"})


def _autocrlf(base: Path) -> Path:
    base.mkdir(exist_ok=True)
    git(base, "init", "-q", "-b", "main")
    git(base, "config", "core.autocrlf", "input")
    write(base, BEFORE)
    git(base, "add", "-A")
    git(base, "commit", "-qm", "first")
    return base


def _filtered(base: Path) -> Path:
    """A clean filter that changes content without its size, as an encryption does; and the mark that it ran."""
    base.mkdir(exist_ok=True)
    git(base, "init", "-q", "-b", "main")
    git(base, "config", "filter.swap.clean", f"touch {base.parent}/filter-ran; tr a-y b-z")
    git(base, "config", "filter.swap.smudge", f"touch {base.parent}/filter-ran; tr b-z a-y")
    write(base, {**BEFORE, ".gitattributes": b"*.txt filter=swap\nbig.bin filter=lfs diff=lfs merge=lfs -text\n"})
    git(base, "add", "-A")
    git(base, "commit", "-qm", "first")
    (base.parent / "filter-ran").unlink()
    return base


def _hostile(base: Path) -> Path:
    """Settings that have git run programs, and name another working tree."""
    repository(base, BEFORE)
    mark = f"touch {base.parent}/hook-ran"
    for name, value in (("core.fsmonitor", mark), ("core.hooksPath", "hooks"), ("diff.external", mark)):
        git(base, "config", name, value)
    for hook in ("post-index-change", "pre-commit", "reference-transaction"):
        path = base / ".git" / "hooks" / hook
        path.write_text(f"#!/bin/sh\n{mark}\n")
        path.chmod(0o755)
    git(base, "config", "core.worktree", "/etc")
    return base


def _linked_git(base: Path) -> Path:
    repository(base / "main", BEFORE)
    (base / "main" / ".git").rename(base / "elsewhere")
    (base / "main" / ".git").symlink_to(base / "elsewhere")
    return base / "main"


def _split_index(base: Path) -> Path:
    repository(base, BEFORE)
    git(base, "update-index", "--split-index")
    git(base, "update-index", "--assume-unchanged", "a.txt")
    return base


def _damaged(base: Path) -> Path:
    repository(base, BEFORE)
    (base / ".git" / "index").write_bytes(b"DIRC no index")
    return base


CASES = (
    Case("a directory without a repository", _plain, repositories=()),
    Case("a clean repository", _clean),
    Case("a repository with changes of the user, staged, unstaged and untracked", _dirty),
    Case("a repository without a commit", _empty),
    Case("a linked worktree", _worktree, repositories=("main/.git",)),
    Case("a subdirectory of a repository", _subdirectory),
    Case("a bare repository", _bare, repositories=("objects", "refs")),
    Case("in the middle of a merge with conflicts", _merging),
    Case("in the middle of a rebase", _rebasing),
    Case("a sparse checkout", _sparse),
    Case("a repository with a submodule", _with_submodule, repositories=("main/.git",)),
    Case("line ends and `$Id$` converted by attributes", _line_ends),
    Case("line ends converted by `core.autocrlf`", _autocrlf),
    Case("content converted by a filter of the same size; Git LFS attributes", _filtered),
    Case("settings, hooks and a file monitor that run programs; a foreign `core.worktree`", _hostile),
    Case("`.git` is a symlink", _linked_git, repositories=("elsewhere",)),
    Case("a split index, and files that git is to assume unchanged", _split_index),
    Case("a damaged index", _damaged),
)


def metadata(base: Path, directories: Sequence[str]) -> dict[str, tuple[bytes, int]]:
    """What directories of git hold: the content and the time of each file."""
    found = {}
    for directory in directories:
        for path in sorted((base / directory).rglob("*")):
            if path.is_file():
                found[os.fspath(path)] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found
