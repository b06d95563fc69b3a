"""Binds all addresses that LISTEN_ADDRESS resolves to, or none."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc

from runner_service.addresses import LOOPBACK_NAME, Address, TcpAddress, UnixAddress

Credentials = Callable[[], grpc.ServerCredentials]

_MAX_PORT_ATTEMPTS = 20
_MAX_UNIX_PATH_BYTES = 107  # bytes; what sockaddr_un holds
_OWNER_ONLY_UMASK = 0o177

# What gRPC clients resolve localhost to, whatever /etc/hosts says. Both are bound: another process that held one of the
# two would receive some of our calls.
_LOOPBACK_HOSTS = ("127.0.0.1", "::1")

# The machine does not have the address (IPv6 is often off in containers), so no other process can listen there.
_ADDRESS_ABSENT_ERRNOS = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class BindError(Exception):
    """An address cannot be bound. The message says what to do."""


class BoundAddresses(NamedTuple):
    """The requested address with its real port, and all addresses that were bound for it."""

    address: Address
    addresses: Sequence[Address]


async def bind(server: grpc.aio.Server, wanted: Address, credentials: Credentials | None) -> BoundAddresses:
    """Binds `wanted`, a name at all its addresses. `credentials` creates TLS credentials for each of them.

    Raises:
        BindError: one of them cannot be bound.
    """
    if isinstance(wanted, UnixAddress):
        await asyncio.to_thread(_prepare_socket_path, Path(wanted.path))
        _bind_unix(server, wanted, await _create(credentials))
        return BoundAddresses(wanted, [wanted])
    addresses = await _resolve(wanted)
    for address in addresses:
        _add_port(server, str(address), await _create(credentials))
    return BoundAddresses(TcpAddress(wanted.host, addresses[0].port), addresses)


async def _create(credentials: Credentials | None) -> grpc.ServerCredentials | None:
    return None if credentials is None else await asyncio.to_thread(credentials)


async def count_listeners(wanted: Address) -> int:
    """Returns at how many addresses `bind` would listen. Raises BindError as it does."""
    return 1 if isinstance(wanted, UnixAddress) else len(await _resolve(wanted))


async def require_bindable(wanted: Address) -> None:
    """Checks that `wanted` could be bound now.

    Raises:
        BindError: it could not be bound.
    """
    if isinstance(wanted, UnixAddress):
        await asyncio.to_thread(_refuse_socket_in_use, Path(wanted.path))
    else:
        await _resolve(wanted)


async def _resolve(wanted: TcpAddress) -> list[TcpAddress]:
    """Returns the addresses that `wanted` resolves to, all with the same free port.

    Each is tried with our own socket: grpc gives no reason for a failure, and for a name accepts any one address.
    """
    hosts = _LOOPBACK_HOSTS if wanted.host == LOOPBACK_NAME else await _look_up(wanted)
    for _ in range(_MAX_PORT_ATTEMPTS if wanted.port == 0 else 1):
        try:
            return _find_bindable(hosts, wanted.port)
        except OSError as error:
            failure = error
    raise _bind_error(wanted, failure) from failure


async def _look_up(wanted: TcpAddress) -> Sequence[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BindError(f"LISTEN_ADDRESS: {wanted.host} cannot be resolved: {error.strerror}") from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _find_bindable(hosts: Sequence[str], port: int) -> list[TcpAddress]:
    """Returns the hosts that this machine has, with `port`, or with one free port for all if it is 0.

    Raises:
        OSError: one of them is in use or forbidden, or the machine has none of them.
    """
    usable, absent = [], None
    for host in hosts:
        try:
            port = _bind_trial_socket(host, port)
        except OSError as error:
            if error.errno not in _ADDRESS_ABSENT_ERRNOS:
                raise
            absent = error
        else:
            usable.append(host)
    if absent is not None and not usable:
        raise absent
    return [TcpAddress(host, port) for host in usable]


def _bind_trial_socket(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as grpc: ignore connections in TIME_WAIT
        if family == socket.AF_INET6:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))  # as grpc
        trial.bind((host, port))
        trial.listen(1)  # detects a port that is in use: bind alone succeeds beside a listener
        return int(trial.getsockname()[1])


def _bind_error(wanted: Address, error: OSError) -> BindError:
    match error.errno:
        case errno.EADDRINUSE:
            hint = "is taken: stop what listens there, or set LISTEN_ADDRESS to another address (port 0: any free port)"
        case errno.EACCES:
            hint = "may not be bound by this user: choose a port from 1024 up"
        case errno.EADDRNOTAVAIL:
            hint = "is not an address of this machine"
        case _:
            hint = f"cannot be bound: {error.strerror}"
    return BindError(f"LISTEN_ADDRESS: {wanted} {hint}")


def _add_port(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> None:
    try:
        if credentials is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, credentials)
    except RuntimeError as error:  # taken since the trial
        raise BindError(f"LISTEN_ADDRESS: {address} cannot be bound; try again") from error


def _bind_unix(server: grpc.aio.Server, address: UnixAddress, credentials: grpc.ServerCredentials | None) -> None:
    before = os.umask(_OWNER_ONLY_UMASK)
    try:
        _add_port(server, str(address), credentials)
    finally:
        os.umask(before)


def _prepare_socket_path(path: Path) -> None:
    """Creates the socket's directory, for its owner only, and removes the socket of a server that no longer runs."""
    if len(os.fsencode(path)) > _MAX_UNIX_PATH_BYTES:
        raise BindError(f"LISTEN_ADDRESS: unix:{path} is longer than {_MAX_UNIX_PATH_BYTES} bytes")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_socket_in_use(path)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise BindError(f"LISTEN_ADDRESS: unix:{path} cannot be made: {error.strerror}") from error


def _refuse_socket_in_use(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BindError(f"LISTEN_ADDRESS: {path} exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            return
        except BlockingIOError:  # its backlog is full, so the server runs
            pass
    raise _bind_error(UnixAddress(str(path)), OSError(errno.EADDRINUSE, ""))
