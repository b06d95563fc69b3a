"""Where STATE_DIR is, and the service that holds it. Imports little: every command of the command line starts here."""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from runner_service.addresses import UnixAddress, parse_address

SERVICE_FILE = "service.json"
"""The file in STATE_DIR that describes the service that holds it."""

STOPPING = "stopping"
"""The key in SERVICE_FILE that is true while the service drains and closes its files."""

IN_USE = "is in use by another runner-service"
"""In the error of a service that cannot start since another one holds its STATE_DIR, and may release it."""

_CONNECT_TIMEOUT_SECONDS = 1.0


class HoldingService(NamedTuple):
    """The service that holds a STATE_DIR, as described by its SERVICE_FILE."""

    address: str
    pid: int
    sandbox_root: str
    mode: str
    is_stopping: bool
    web_address: str = ""
    """Where its page for browsers is; empty when it has none."""
    web_scheme: str = "http"
    """`https` when the page has TLS."""

    def accepts_connections(self) -> bool:
        """Tells whether it can be called. Takes up to a second."""
        return not self.is_stopping and _accepts_connections(self.address)


def default_state_dir(home: Path | None, xdg_state_home: Path | None) -> Path:
    """Returns the default of STATE_DIR. A relative XDG_STATE_HOME is ignored, as XDG demands."""
    if xdg_state_home is None or not xdg_state_home.is_absolute():
        xdg_state_home = (home or Path.home()) / ".local" / "state"
    return xdg_state_home / "runner-service"


def state_dir_from(environ: Mapping[str, str]) -> Path:
    """Returns STATE_DIR as the settings have it."""
    if text := environ.get("STATE_DIR"):
        return Path(text).absolute()
    home, xdg_state_home = environ.get("HOME"), environ.get("XDG_STATE_HOME")
    return default_state_dir(Path(home) if home else None, Path(xdg_state_home) if xdg_state_home else None).absolute()


def find_service(state_dir: Path) -> HoldingService | None:
    """Returns the service that holds `state_dir` and can be called, or is still stopping; else None."""
    try:
        facts = json.loads((state_dir / SERVICE_FILE).read_bytes())
        found = HoldingService(
            facts["address"],
            int(facts["pid"]),
            facts["sandbox_root"],
            facts["mode"],
            bool(facts.get(STOPPING)),
            str(facts.get("web_address", "")),
            str(facts.get("web_scheme", "http")),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if found.is_stopping:
        return found if _is_alive(found.pid) else None
    return found if found.accepts_connections() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _accepts_connections(address: str) -> bool:
    try:
        where = parse_address(address)
        if isinstance(where, UnixAddress):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
                caller.settimeout(_CONNECT_TIMEOUT_SECONDS)
                caller.connect(where.path)
                return _is_greeted(caller)
        else:
            socket.create_connection(where, timeout=_CONNECT_TIMEOUT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def _is_greeted(caller: socket.socket) -> bool:
    """Tells whether the other side stays. While a killed process ends, connections to it succeed, and are then closed.

    A gRPC server sends its HTTP/2 settings at once. One that says nothing may only be slow.
    """
    try:
        return bool(caller.recv(1))
    except TimeoutError:
        return True
