"""The supervisor inside a cell: bubblewrap has made the namespaces and set the seccomp filter; it does the rest."""

import socket
import sys
from contextlib import suppress

from runner_service.executors.supervisor import kernel
from runner_service.executors.supervisor.main import main

_SCOPE_ABSTRACT_UNIX_SOCKETS = 1
_ABI_WITH_SCOPES = 6
_BACKLOG = 64

ABSTRACT_SOCKETS_GAP = "abstract-unix-sockets"


def main_in_cell(arguments: list[str]) -> None:
    """Runs the supervisor. The first argument is the level of the network; at `proxy` a listener is opened for it."""
    network, *arguments = arguments
    gaps = [] if _scope_abstract_sockets() else [ABSTRACT_SOCKETS_GAP]
    kernel.join_new_keyring()
    kernel.set_no_new_privileges()
    if network != "proxy":
        main(arguments, {"gaps": gaps})
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(_BACKLOG)
        main(arguments, {"gaps": gaps, "proxy_port": listener.getsockname()[1]}, [listener.fileno()])


def _scope_abstract_sockets() -> bool:
    """Closes abstract sockets from outside the cell, which a network namespace of its own would do as well."""
    if sys.platform != "linux" or kernel.landlock_abi() < _ABI_WITH_SCOPES:
        return False
    kernel.set_no_new_privileges()
    with suppress(OSError):
        kernel.restrict_by_landlock(0, 0, _SCOPE_ABSTRACT_UNIX_SOCKETS, [])
        return True
    return False
