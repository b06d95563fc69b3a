"""How sandboxes are created, named, labelled and used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

OWNER, KIND, LEASE = "runner-service-owner", "runner-service-kind", "runner-service-lease"
"""Labels: owner, kind (session, execution or warm), and the end of the lease in Unix seconds."""

NAME = "runner-service-name"
"""Label: the name by which a sandbox is looked for, which is another than its own if it comes from the warm pool."""

PARKED = "runner-service-parked"
"""Label: set while the sandbox is kept, stopped, for an execution that waits for approval."""

MINUTES_PER_DAY = 24 * 60

Notify = Callable[[str, str], None]
"""Receives notices for watchers: a code and a text."""


@dataclass(frozen=True)
class SandboxConfig:
    """How sandboxes are created and used. Times are in seconds unless the name says otherwise.

    `owner` is shared by all replicas of a service. `auto_stop_minutes` stops an unused sandbox; `ttl_minutes` deletes
    an execution's sandbox in any case; `session_days` deletes a session's sandbox that long after it stopped.
    `start_timeout` bounds the wait for a sandbox, `outage_timeout` how long an API that is away is waited for in the
    middle of an execution, `close_timeout` how long the end of the service waits for deletions. A request waits in the
    sandbox for at most `poll_interval`, and its response takes at most `response_margin` more. A command with stdin
    ends when its sandbox has not heard from the service for `stdin_idle_timeout` after that. `directory` is the root,
    below the working directory of the snapshot. `warm` is how many sandboxes are started in advance.
    `network_allow_list` are CIDR ranges, `volumes` names and mount paths.
    """

    owner: str = "runner-service"
    snapshot: str = ""
    auto_stop_minutes: int = 15
    ttl_minutes: int = MINUTES_PER_DAY
    session_days: int = 7
    start_timeout: float = 300.0
    outage_timeout: float = 300.0
    lease: float = 600.0
    close_timeout: float = 5.0
    poll_interval: float = 20.0
    response_margin: int = 10
    stdin_idle_timeout: float = 60.0
    directory: str = ""
    warm: int = 0
    network_block_all: bool = False
    network_allow_list: str = ""
    volumes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class SandboxRef:
    """Identifies a sandbox: of a session, which keeps it, of a single execution, or of nobody yet."""

    name: str
    kind: Literal["session", "execution", "warm"]
