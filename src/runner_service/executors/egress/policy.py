"""Decides whether a host may be reached, and looks its name up once: what was checked is what is connected to."""

import asyncio
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence

from runner_service.allowed_hosts import AllowedHost, parse_ip

logger = logging.getLogger(__name__)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOKUP_TIMEOUT_SECONDS = 10.0
_MAX_NAME_CHARACTERS = 253
_MAX_REPORTED_HOSTS = 100
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class EgressDeniedError(Exception):
    """A host may not be reached; the text says why, for people and models."""


class EgressPolicy:
    """The allowed hosts of one execution. `on_denied` is called with host, port and reason, once for each host."""

    def __init__(self, allowed: Sequence[AllowedHost], on_denied: Callable[[str, int, str], None]) -> None:
        self._allowed = allowed
        self._on_denied = on_denied
        self._denials: Counter[str] = Counter()

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Returns the addresses to connect to.

        Raises:
            EgressDeniedError: the host may not be reached.
            OSError: its name cannot be looked up.
        """
        name = host.lower().rstrip(".").removeprefix("[").removesuffix("]")[: _MAX_NAME_CHARACTERS + 1]
        address = parse_ip(name)
        if not any(each.matches(str(address or name), port) for each in self._allowed):
            raise self._denied(name, port, "not among the allowed hosts of this execution")
        if address:
            return [str(address)]
        found = await look_up(name, port)
        public = [str(each) for each in found if _is_public(each)]
        if not public:
            raise self._denied(name, port, "its name leads to a private address, which must be allowed as an address")
        return public

    def repeated_denials(self) -> str:
        """Returns the hosts that were refused more than once, with how often; empty if there are none."""
        repeated = [f"{host} {count} times" for host, count in self._denials.most_common(10) if count > 1]
        return ", ".join(repeated)

    def _denied(self, host: str, port: int, reason: str) -> EgressDeniedError:
        is_known = host in self._denials
        if is_known or len(self._denials) < _MAX_REPORTED_HOSTS:
            self._denials[host] += 1
            if not is_known:
                logger.info("network_denied host=%s port=%d reason=%s", host, port, reason)
                self._on_denied(host, port, reason)
        return EgressDeniedError(f"{host}:{port} cannot be reached: {reason}")


async def look_up(name: str, port: int) -> Sequence[IpAddress]:
    """Returns the addresses of a name. Raises OSError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LOOKUP_TIMEOUT_SECONDS):
        found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    addresses = [parse_ip(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]
    return list(dict.fromkeys(address for address in addresses if address))


def _is_public(address: IpAddress) -> bool:
    """Returns whether an address, or the IPv4 address that it stands for, is one of the public internet."""
    return all(each.is_global and not each.is_multicast for each in (address, *embedded_addresses(address)))


def embedded_addresses(address: IpAddress) -> Sequence[IpAddress]:
    """Returns the IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each]
