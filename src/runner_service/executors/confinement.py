"""Confinement levels of an execution: what its tools may read, write and reach, and how two levels combine."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

FilesLevel = Literal["none", "workspace", "read_only", "strict"]
NetworkLevel = Literal["all", "proxy", "none"]

DEFAULT_PORTS = (80, 443)
"""The ports of an allowed host that names none."""

_AT_LEAST: dict[FilesLevel, set[FilesLevel]] = {
    "none": {"none", "workspace", "read_only", "strict"},
    "workspace": {"workspace", "read_only", "strict"},
    "read_only": {"read_only"},
    "strict": {"strict"},
}
_NETWORKS: Sequence[NetworkLevel] = ("all", "proxy", "none")
_HOST_NAME = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.?")


class LooseningError(ValueError):
    """A request asks for less confinement than the operator requires. `field` is of the request's confinement."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field
        self.text = text


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """A host that may be reached: a name, `*.` and a domain, or an address; `port` is 0 for `DEFAULT_PORTS`."""

    host: str
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> "AllowedHost":
        """Parses `HOST`, `HOST:PORT`, `*.DOMAIN[:PORT]`, `ADDRESS` or `[IPv6]:PORT`. Raises ValueError."""
        name, port = _split_port(text.strip().lower())
        if not 0 <= port <= 65535:  # noqa: PLR2004  # the last port
            raise ValueError(f"{text!r}: the port must be between 1 and 65535")
        address = parse_ip(name)
        if address is None and not _HOST_NAME.fullmatch(name):
            raise ValueError(f"{text!r} is neither a host name, *.domain nor an IP address")
        return cls(str(address) if address else name.rstrip("."), port)

    def matches(self, host: str, port: int) -> bool:
        """Returns whether a connection to `host` (in lower case, without a final dot) and `port` is allowed."""
        if not (port == self.port or (not self.port and port in DEFAULT_PORTS)):
            return False
        return host == self.host or (self.host.startswith("*.") and host.endswith(self.host[1:]))

    def covers(self, other: "AllowedHost") -> bool:
        """Returns whether everything that `other` allows is allowed by this one."""
        ports = (other.port,) if other.port else DEFAULT_PORTS
        return all(self.matches(other.host, port) for port in ports)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        return f"{host}:{self.port}" if self.port else host


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the tools of an execution may do. Paths are absolute; see docs/confinement.md for the levels."""

    files: FilesLevel = "none"
    network: NetworkLevel = "all"
    allowed_hosts: tuple[AllowedHost, ...] = ()
    readable_paths: tuple[str, ...] = ()
    writable_paths: tuple[str, ...] = ()
    hidden_paths: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.files != "none" or self.network != "all"

    def tightened(self, asked: "Requested") -> "Confinement":
        """Returns the confinement of a request under this one, the operator's minimum.

        Raises:
            LooseningError: the request asks for less.
        """
        files = asked.files or self._implied_files(asked)
        if files not in _AT_LEAST[self.files]:
            raise LooseningError("files", f"must not be less than SANDBOX_CONFINEMENT={self.files}")
        network = asked.network or self.network
        if _NETWORKS.index(network) < _NETWORKS.index(self.network):
            raise LooseningError("network", f"must not be less than SANDBOX_NETWORK={self.network}")
        if network != "all" and files == "none":
            raise LooseningError("network", "needs files to be FILES_WORKSPACE or more")
        return replace(
            self,
            files=files,
            network=network,
            allowed_hosts=self._tightened_hosts(asked, network),
            readable_paths=self._tightened_paths("readable_paths", self.readable_paths, asked.readable_paths),
            writable_paths=self._tightened_paths("writable_paths", self.writable_paths, asked.writable_paths),
            hidden_paths=(*self.hidden_paths, *asked.hidden_paths),
        )

    def _implied_files(self, asked: "Requested") -> FilesLevel:
        is_confined = asked.network not in {None, "all"}
        return "workspace" if is_confined and self.files == "none" else self.files

    def _tightened_hosts(self, asked: "Requested", network: NetworkLevel) -> tuple[AllowedHost, ...]:
        if network != "proxy":
            if asked.allowed_hosts:
                raise LooseningError("allowed_hosts", "needs network to be NETWORK_PROXY")
            return ()
        if self.network != "proxy":
            return asked.allowed_hosts
        for host in asked.allowed_hosts:
            if not any(own.covers(host) for own in self.allowed_hosts):
                raise LooseningError("allowed_hosts", f"{host} is not among SANDBOX_ALLOWED_HOSTS")
        return asked.allowed_hosts or self.allowed_hosts

    def _tightened_paths(self, field: str, own: tuple[str, ...], asked: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the paths of a request, which lie below the operator's if the operator requires any level."""
        if not self:
            return (*own, *asked)
        for path in asked:
            if not any(is_below(path, each) for each in own):
                variable = f"SANDBOX_{field.upper()}"
                raise LooseningError(field, f"{path} must lie below one of {variable}")
        return asked or own


@dataclass(frozen=True, slots=True)
class Requested:
    """What a request asks for; None stands for the operator's minimum."""

    files: FilesLevel | None = None
    network: NetworkLevel | None = None
    allowed_hosts: tuple[AllowedHost, ...] = ()
    readable_paths: tuple[str, ...] = ()
    writable_paths: tuple[str, ...] = ()
    hidden_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfinementInForce:
    """What is in force, as in the `started` event: levels, mechanism (`none` when not confined), and known gaps."""

    files: FilesLevel = "none"
    network: NetworkLevel = "all"
    mechanism: str = "none"
    gaps: tuple[str, ...] = ()


def parse_hosts(texts: Iterable[str]) -> tuple[AllowedHost, ...]:
    """Parses allowed hosts. Raises ValueError."""
    return tuple(AllowedHost.parse(text) for text in texts)


def parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Returns an IP address; None for anything else."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_below(path: str, directory: str) -> bool:
    """Returns whether an absolute path without `..` is `directory` or lies below it."""
    return PurePosixPath(path).is_relative_to(directory)


def _split_port(text: str) -> tuple[str, int]:
    if text.startswith("["):
        name, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        name, _, port = text.partition(":")
        if not port:
            raise ValueError(f"{text!r}: the port is missing")
    else:
        return text, 0
    if port and not (port.isascii() and port.isdigit() and int(port)):
        raise ValueError(f"{text!r}: the port must be a number")
    return name, int(port or 0)
