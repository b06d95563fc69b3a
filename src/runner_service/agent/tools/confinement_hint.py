"""A line for the model when a command seems to have failed because of the confinement of its execution."""

import re
from collections.abc import Sequence

from runner_service.executors.confinement import Confinement, is_below

_WORDING = ("read-only file system", "permission denied", "operation not permitted", "erofs", "eacces")
"""In lower case, as Go has it: others write some of it in capitals."""
_READ_ONLY = ("read-only file system", "erofs")
_PATH = re.compile(r"/[^\s:'\"`\u2018\u2019,()]*")
_UNREACHABLE = (
    "network is unreachable",
    "could not resolve host",
    "name resolution",
    "name or service not known",
    "no such host",
    "getaddrinfo",
    "enotfound",
    "eai_again",
)
_MAX_LINE_CHARACTERS = 2000
_MAX_PATHS_PER_LINE = 8
_MAX_SEARCHED_CHARACTERS = 64 * 1024
_PRIVATE = "/tmp"  # noqa: S108  # of the execution
_WRITABLE = {"workspace": f"{{root}} or {_PRIVATE}", "strict": f"{{root}} or {_PRIVATE}", "read_only": _PRIVATE}


def confinement_hint(confinement: Confinement, root: str, output: str) -> str:
    """Returns the line, or nothing. `output` is what the command wrote, or an excerpt."""
    if not confinement:
        return ""
    output = output[-_MAX_SEARCHED_CHARACTERS:]
    hints = []
    if path := _refused_path(confinement, root, output):
        writable = _WRITABLE.get(confinement.files, "{root}").format(root=root)
        hints.append(
            f"{path} is closed by the confinement of this execution (files: {confinement.files}); use {writable}"
        )
    if confinement.network != "all" and _says(output, _UNREACHABLE):
        hosts = ", ".join(map(str, confinement.allowed_hosts[:10]))
        reached = f"only {hosts} can be reached, through HTTP_PROXY" if hosts else "no host can be reached"
        hints.append(
            f"the network is closed by the confinement of this execution (network: {confinement.network}): {reached}"
        )
    return f"\n[{'. '.join(hints)}]" if hints else ""


def _refused_path(confinement: Confinement, root: str, output: str) -> str:
    """Returns a path that seems to have been refused by the confinement: one outside the root, or a read-only root."""
    for line in output.splitlines():
        if not _says(line, _WORDING):
            continue
        for path in _PATH.findall(line[:_MAX_LINE_CHARACTERS])[:_MAX_PATHS_PER_LINE]:
            if not is_below(path, root):
                return str(path)
    is_whole = confinement.files == "read_only" and _says(output, _READ_ONLY)
    return root if is_whole else ""


def _says(text: str, wording: Sequence[str]) -> bool:
    lower = text.lower()
    return any(words in lower for words in wording)
