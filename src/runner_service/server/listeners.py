"""The gRPC servers of one service: one for each way in which callers are recognised, and one for probes."""

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import grpc
from grpc_health.v1 import health_pb2_grpc

from runner_service.addresses import UnixAddress, parse_address
from runner_service.api.auth import Authentication
from runner_service.api.callers.sources import Callers, CallerSource, CertificateSource, SocketSource, TokenSource
from runner_service.api.callers.watching import KnownCallers
from runner_service.api.health import HealthServicer
from runner_service.api.interceptors import OpenCalls, interceptors
from runner_service.executions.readiness import Readiness
from runner_service.server.binding import BindError, BoundAddresses, bind, count_listeners
from runner_service.server.tls import server_credentials
from runner_service.server.transport import channel_options, health_channel_options
from runner_service.settings import Settings

if TYPE_CHECKING:
    from runner_service.api.callers.file import SocketEntry

AddServices = Callable[[grpc.aio.Server], None]


class Listeners(NamedTuple):
    """Servers that are bound but not started, and where they listen."""

    servers: Sequence[grpc.aio.Server]
    bound: Sequence[BoundAddresses]
    """Those of LISTEN_ADDRESS, in its order."""
    sockets: Sequence[BoundAddresses]
    """Those of CALLERS_FILE."""
    health: BoundAddresses | None


async def bind_listeners(
    settings: Settings,
    callers: KnownCallers,
    *,
    add_services: AddServices,
    health: HealthServicer,
    readiness: Readiness,
    calls: OpenCalls,
) -> Listeners:
    """Binds LISTEN_ADDRESS, the sockets of CALLERS_FILE, and HEALTH_ADDRESS.

    Raises:
        BindError: one of the addresses cannot be bound.
        TlsError: the certificate files cannot be used.
    """
    wanted = [parse_address(each) for each in settings.listen_addresses()]
    listeners = sum([await count_listeners(each) for each in wanted])

    def server(source: CallerSource) -> grpc.aio.Server:
        made = grpc.aio.server(
            interceptors=interceptors(source, callers.calls, readiness, calls),
            options=channel_options(listeners=listeners),
        )
        add_services(made)
        return made

    servers: dict[bool, grpc.aio.Server] = {}
    bound = []
    for address in wanted:
        asks = str(address) in settings.certificate_addresses()
        if asks not in servers:
            servers[asks] = server(CertificateSource(callers) if asks else TokenSource(callers))
        bound.append(await bind(servers[asks], address, server_credentials(settings, client_certificates=asks)))
    sockets, all_servers = [], list(servers.values())
    for entry in callers.directory.file.sockets if callers.directory else ():
        all_servers.append(server(SocketSource(callers, entry.path)))
        sockets.append(await _bind_socket(all_servers[-1], entry))
    bound_health = None
    if settings.health_address:
        health_server, bound_health = await _health_server(settings.health_address, health, callers, readiness, calls)
        all_servers.append(health_server)
    return Listeners(all_servers, bound, sockets, bound_health)


async def _bind_socket(server: grpc.aio.Server, entry: "SocketEntry") -> BoundAddresses:
    """Binds a socket for whoever may open it. It is the owner's alone until it has its owner, group and mode."""
    try:
        bound = await bind(server, UnixAddress(entry.path), None)
        await asyncio.to_thread(_give_to, entry)
    except BindError as error:
        raise BindError(str(error).replace("LISTEN_ADDRESS", "CALLERS_FILE sockets")) from error
    except (OSError, LookupError) as error:
        raise BindError(f"CALLERS_FILE sockets: {entry.path} cannot be given to its caller: {error}") from error
    return bound


def _give_to(entry: "SocketEntry") -> None:
    if entry.owner:
        shutil.chown(entry.path, user=entry.owner)
    if entry.group:
        shutil.chown(entry.path, group=entry.group)
    os.chmod(entry.path, int(entry.mode, 8))  # noqa: PTH101  # a mode of the file


async def _health_server(
    address: str, health: HealthServicer, callers: KnownCallers, readiness: Readiness, calls: OpenCalls
) -> tuple[grpc.aio.Server, BoundAddresses]:
    """Returns a server for probes: health alone, without token and TLS, with connections that callers cannot use up."""
    wanted = parse_address(address)
    nobody = TokenSource(Callers(Authentication(None)))
    try:
        server = grpc.aio.server(
            interceptors=interceptors(nobody, callers.calls, readiness, calls),
            options=health_channel_options(listeners=await count_listeners(wanted)),
        )
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        return server, await bind(server, wanted, None)
    except BindError as error:
        raise BindError(str(error).replace("LISTEN_ADDRESS", "HEALTH_ADDRESS")) from error
