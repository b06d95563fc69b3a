"""A line for the model when a command seems to have failed because of the confinement of its execution."""

import re

from runner_service.executors.confinement import Confinement, is_below

_WORDING = ("Read-only file system", "ermission denied", "Operation not permitted", "EROFS", "EACCES")
_READ_ONLY = ("Read-only file system", "EROFS")
_PATH = re.compile(r"/[^\s:'\"`\u2018\u2019,()]*")
_UNREACHABLE = (
    "Network is unreachable",
    "Could not resolve host",
    "name resolution",
    "Name or service not known",
    "getaddrinfo",
    "ENOTFOUND",
    "EAI_AGAIN",
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
    if confinement.network != "all" and any(words in output for words in _UNREACHABLE):
        hosts = ", ".join(map(str, confinement.allowed_hosts[:10]))
        reached = f"only {hosts} can be reached, through HTTP_PROXY" if hosts else "no host can be reached"
        hints.append(
            f"the network is closed by the confinement of this execution (network: {confinement.network}): {reached}"
        )
    return f"\n[{'. '.join(hints)}]" if hints else ""


def _refused_path(confinement: Confinement, root: str, output: str) -> str:
    """Returns a path that seems to have been refused by the confinement: one outside the root, or a read-only root."""
    for line in output.splitlines():
        if not any(words in line for words in _WORDING):
            continue
        for path in _PATH.findall(line[:_MAX_LINE_CHARACTERS])[:_MAX_PATHS_PER_LINE]:
            if not is_below(path, root):
                return str(path)
    is_whole = confinement.files == "read_only" and any(words in output for words in _READ_ONLY)
    return root if is_whole else ""
