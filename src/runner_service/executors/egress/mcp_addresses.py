"""Where HTTP MCP servers may be: what is decided by the address, for every connection and redirect."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Sequence
from typing import Protocol

from runner_service.allowed_hosts import parse_ip
from runner_service.executors.egress.addresses import AddressKind, IpAddress, kind_of, look_up, plain_host
from runner_service.executors.egress.policy import EgressDeniedError, EgressPolicy

logger = logging.getLogger(__name__)

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_REASONS = {
    AddressKind.LINK_LOCAL: "link-local and metadata addresses are never allowed",
    AddressKind.NO_SERVER: "it is no address of a server",
}


class Addresses(Protocol):
    """Decides which addresses of a host may be connected to."""

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Returns the addresses to connect to. Raises EgressDeniedError, OSError."""


class McpAddresses:
    """The addresses of HTTP MCP servers: public ones, and others by mode.

    Local mode allows loopback and private addresses too, but not the service's own ports, which would give an agent
    the service itself. Cloud mode allows those in `networks`. Link-local and metadata addresses are never allowed.
    """

    def __init__(self, *, allows_private: bool, networks: Sequence[IpNetwork] = ()) -> None:
        self._allows_private = allows_private
        self._networks = networks
        self.own_ports: set[int] = set()
        """The ports that the service listens on."""

    async def addresses(self, host: str, port: int, within: EgressPolicy | None = None) -> Sequence[str]:
        """Returns the addresses of a host that are allowed, looked up once; `within` limits them further."""
        name = plain_host(host)
        address = parse_ip(name)
        if within:
            found = [each for text in await within.addresses(host, port) if (each := parse_ip(text))]
        else:
            found = [address] if address else list(await look_up(name, port))
        reasons = {str(each): await self._reason_against(each, port) for each in found}
        if allowed := [each for each, reason in reasons.items() if not reason]:
            return allowed
        reason = next(iter(reasons.values()), "its name has no address")
        logger.info("mcp_address_denied host=%s port=%d reason=%s", name[:253], port, reason)
        raise EgressDeniedError(f"{name}:{port} cannot be reached: {reason}")

    async def _reason_against(self, address: IpAddress, port: int) -> str:
        kind = kind_of(address)
        if reason := _REASONS.get(kind):
            return reason
        is_private = kind is AddressKind.PRIVATE
        if is_private and not self._allows_private and not any(address in network for network in self._networks):
            return "private addresses must be in MCP_ALLOWED_NETWORKS"
        if port in self.own_ports and await asyncio.to_thread(_is_own, address):
            return "this is the service itself"
        return ""


class EgressAddresses:
    """The addresses that are allowed by both: where MCP servers may be, and the confinement of an execution."""

    def __init__(self, mcp: McpAddresses, egress: EgressPolicy | None) -> None:
        self._mcp = mcp
        self._egress = egress

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Implements `Addresses`."""
        return await self._mcp.addresses(host, port, self._egress)


def parse_networks(text: str) -> Sequence[IpNetwork]:
    """Reads networks separated by commas. Raises ValueError."""
    return [ipaddress.ip_network(each.strip()) for each in text.split(",") if each.strip()]


def _is_own(address: IpAddress) -> bool:
    """Returns whether an address is one of this machine."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET  # noqa: PLR2004  # as the name says
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        try:
            trial.bind((str(address), 0))
        except OSError:
            return False
    return True
