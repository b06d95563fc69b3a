"""Finds the user's repository around a directory and borrows from it. Nothing of it is changed or configured by it."""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

_MAX_TEXT_BYTES = 1024 * 1024
_MAX_INDEX_BYTES = 1 << 30
_CONVERTS = re.compile(rb"^\s*autocrlf\s*=\s*(true|input|1|yes|on)\b", re.IGNORECASE | re.MULTILINE)
_SHA256 = re.compile(rb"^\s*objectformat\s*=\s*sha256\b", re.IGNORECASE | re.MULTILINE)

SHADOW_ATTRIBUTES = "* -text -eol -crlf -ident -filter -working-tree-encoding\n"
"""For our own repository: files are compared and stored as they are, and no filter is run."""

_SHADOW_CONFIG = """[core]
\trepositoryformatversion = {version}
\tbare = false
\tfilemode = true
\tsymlinks = true
\tfsmonitor = false
\tuntrackedCache = false
\tprotectNTFS = false
\tprotectHFS = false
\thooksPath = /dev/null
\tlooseCompression = 1
\tcompression = 1
\tpreloadIndex = true
\tautocrlf = false
[index]
\tsparse = false
\tversion = 4
[gc]
\tauto = 0
{extensions}"""


class Repository(NamedTuple):
    """A repository of the user: its directory, what all its worktrees share, and the top of its working tree."""

    directory: str
    common: str
    top: str

    @property
    def borrowed_objects(self) -> str:
        """Its objects, as a value of GIT_ALTERNATE_OBJECT_DIRECTORIES."""
        escaped = f"{self.common}/objects".replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    @property
    def uses_sha256(self) -> bool:
        """Whether its objects are named by SHA-256."""
        return bool(_SHA256.search(_read(f"{self.common}/config")))


def find_repository(root: str) -> Repository | None:
    """Returns the repository whose working tree holds `root`. Its settings, `core.worktree` too, are not believed."""
    directory = root
    while True:
        if (found := _repository_at(directory)) is not None:
            return found
        if directory == "/" or os.path.ismount(directory):
            return None
        directory = os.path.dirname(directory)


def _repository_at(top: str) -> Repository | None:
    entry = f"{top}/.git"
    if os.path.isdir(entry):
        directory = os.path.realpath(entry)
    else:
        line = _read(entry).decode("utf-8", "surrogateescape").strip()
        if not line.startswith("gitdir: "):
            return None
        directory = os.path.realpath(os.path.join(top, line.removeprefix("gitdir: ")))
    below = _read(f"{directory}/commondir").decode("utf-8", "surrogateescape").strip()
    common = os.path.realpath(os.path.join(directory, below)) if below else directory
    is_repository = os.path.isdir(f"{common}/objects") and os.path.lexists(f"{directory}/HEAD")
    return Repository(directory, common, top) if is_repository and "\n" not in common else None


def make_shadow(directory: str, repository: Repository | None) -> None:
    """Makes our own repository in a directory; it begins with the index of the user's."""
    for name in ("objects/info", "objects/pack", "refs", "info"):
        os.makedirs(f"{directory}/{name}", mode=0o700, exist_ok=True)
    is_sha256 = repository is not None and repository.uses_sha256
    extensions = "[extensions]\n\tobjectformat = sha256\n" if is_sha256 else ""
    _write(f"{directory}/config", _SHADOW_CONFIG.format(version=int(is_sha256), extensions=extensions).encode())
    _write(f"{directory}/HEAD", b"ref: refs/heads/main\n")
    if repository:
        _write(f"{directory}/info/exclude", _read(f"{repository.common}/info/exclude"))
        _write(f"{directory}/info/attributes", _read(f"{repository.common}/info/attributes"))
        _copy_index(repository, directory)


def exclude(directory: str, pattern: bytes) -> None:
    """Has our own repository ignore what matches a pattern."""
    path = f"{directory}/info/exclude"
    _write(path, _read(path) + b"\n" + pattern + b"\n")


def end_conversions(directory: str) -> None:
    """Turns conversions of content off in our own repository."""
    _write(f"{directory}/info/attributes", SHADOW_ATTRIBUTES.encode())


def converts_line_ends(repository: Repository) -> bool:
    """Returns whether settings of the user or of the repository have line ends converted in every file."""
    home = os.environ.get("HOME", "")
    base = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    files = (f"{repository.common}/config", f"{repository.directory}/config.worktree")
    return any(_CONVERTS.search(_read(each)) for each in (*files, f"{home}/.gitconfig", f"{base}/git/config"))


def has_attributes(repository: Repository, root: str, paths: list[bytes]) -> bool:
    """Returns whether attributes of any file of the working tree may say that its content is converted."""
    if any(os.path.basename(path) == b".gitattributes" for path in paths):
        return True
    home = os.environ.get("HOME", "")
    base = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    others = (f"{repository.common}/info/attributes", f"{base}/git/attributes")
    return any(os.path.exists(each) for each in (*others, *_attributes_above(repository.top, root)))


def _attributes_above(top: str, root: str) -> Iterator[str]:
    while root not in {top, "/"}:
        root = os.path.dirname(root)
        yield f"{root}/.gitattributes"


def _copy_index(repository: Repository, directory: str) -> None:
    names = ["index"]
    with suppress(OSError):
        names += [each for each in os.listdir(repository.directory) if each.startswith("sharedindex.")][:4]
    for name in names:
        source, copy = f"{repository.directory}/{name}", f"{directory}/{name}"
        with suppress(OSError), open(_open(source), "rb") as file, open(copy, "wb") as into:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_size <= _MAX_INDEX_BYTES:
                shutil.copyfileobj(file, into, 1 << 20)
                into.flush()
                # By the time of the index git knows which files may have changed just after it was written.
                os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))


def _read(path: str) -> bytes:
    """Reads the beginning of a regular file; nothing of anything else."""
    try:
        with open(_open(path), "rb") as file:
            return file.read(_MAX_TEXT_BYTES) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return b""


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
