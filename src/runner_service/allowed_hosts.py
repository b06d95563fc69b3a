"""Hosts that a confined execution may reach, as operators and requests write them."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

DEFAULT_PORTS = (80, 443)
"""The ports of an allowed host that names none."""

_HOST_NAME = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.?")


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


def parse_hosts(texts: Iterable[str]) -> tuple[AllowedHost, ...]:
    """Parses allowed hosts. Raises ValueError."""
    return tuple(AllowedHost.parse(text) for text in texts)


def parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Returns an IP address; None for anything else."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _split_port(text: str) -> tuple[str, int]:
    if text.startswith("["):
        name, end, port = text[1:].partition("]")
        if not end or port == ":":
            raise ValueError(f"{text!r}: this is no host")
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
