"""Listen addresses: `host:port`, `[IPv6]:port`, or `unix:PATH`."""

import ipaddress
from contextlib import suppress
from typing import NamedTuple

LOOPBACK_NAME = "localhost"
_ANY_HOSTS = frozenset({"0.0.0.0", "::"})  # noqa: S104  # only compared with
_HIGHEST_PORT = 65535


class TcpAddress(NamedTuple):
    """A host name or address (IPv6 without brackets) and a port; port 0 means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(NamedTuple):
    """The path of a unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Parses an address.

    Raises:
        ValueError: the text is not an address; the message says what it should be.
    """
    if text.startswith("unix:"):
        return _unix_address(text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = _ipv6(host[1:-1])
    elif ":" in host or "/" in host:
        host = ""
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= _HIGHEST_PORT):
        raise ValueError("should be host:port, [IPv6]:port or unix:PATH, with a port from 0 to 65535")
    return TcpAddress(host, int(port))


def tcp_addresses(text: str) -> list[TcpAddress]:
    """Parses addresses with commas between them.

    Raises:
        ValueError: one is not host:port or [IPv6]:port.
    """
    addresses: list[TcpAddress] = []
    for each in text.split(","):
        with suppress(ValueError):
            address = parse_address(each.strip())
            if isinstance(address, TcpAddress) and address.port:
                addresses.append(address)
                continue
        raise ValueError("should be host:port or [IPv6]:port, several separated by commas")
    return addresses


def is_loopback(address: Address) -> bool:
    """Returns whether only this machine can reach `address`. Names other than localhost do not count."""
    if isinstance(address, UnixAddress) or address.host == LOOPBACK_NAME:
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False


def overlap(one: Address, other: Address) -> bool:
    """Returns whether the two cannot both be bound on one machine. Port 0 never overlaps."""
    if isinstance(one, UnixAddress) or isinstance(other, UnixAddress):
        return one == other
    if one.port != other.port or one.port == 0:
        return False
    return one.host == other.host or (_answers_locally(one) and _answers_locally(other))


def _answers_locally(address: TcpAddress) -> bool:
    return address.host in _ANY_HOSTS or is_loopback(address)


def _unix_address(path: str) -> UnixAddress:
    path = path.removeprefix("//") if path.startswith("///") else path
    if not path:
        raise ValueError("should name a path after unix:")
    return UnixAddress(path)


def _ipv6(host: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        return ""
