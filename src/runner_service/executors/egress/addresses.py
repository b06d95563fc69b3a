"""Judges IP addresses by what they lead to, and looks names up."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from enum import Enum, auto

from runner_service.allowed_hosts import parse_ip

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LOOKUP_TIMEOUT_SECONDS = 10.0
_NETWORKS_OF_IPV4 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))
"""NAT64, and addresses that are compatible with IPv4: the last 32 bits are an IPv4 address."""
_METADATA = frozenset(
    map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"))
)
"""Where clouds give credentials to whoever asks."""


class AddressKind(Enum):
    """What an address leads to."""

    PUBLIC = auto()
    PRIVATE = auto()
    """Loopback, and everything else that is not of the public internet."""
    LINK_LOCAL = auto()
    """Link-local, or where a cloud has its metadata."""
    NO_SERVER = auto()
    """Multicast and unspecified addresses."""


def kind_of(address: IpAddress) -> AddressKind:
    """Returns the kind of an address; of one that stands for an IPv4 address, the stricter kind of both."""
    every = (address, *_embedded_addresses(address))
    if any(each in _METADATA or each.is_link_local for each in every):
        return AddressKind.LINK_LOCAL
    if any(each.is_multicast or each.is_unspecified for each in every):
        return AddressKind.NO_SERVER
    return AddressKind.PUBLIC if all(each.is_global for each in every) else AddressKind.PRIVATE


def plain_host(host: str) -> str:
    """Returns a host as it is compared: in lower case, without a final dot or brackets."""
    return host.lower().rstrip(".").removeprefix("[").removesuffix("]")


async def look_up(name: str, port: int) -> Sequence[IpAddress]:
    """Returns the addresses of a name. Raises OSError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_LOOKUP_TIMEOUT_SECONDS):
        found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    addresses = [parse_ip(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]
    return list(dict.fromkeys(address for address in addresses if address))


def _embedded_addresses(address: IpAddress) -> Sequence[IpAddress]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _NETWORKS_OF_IPV4):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each]
