"""Binds every address that LISTEN_ADDRESS means, or none."""

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

_TRIES_FOR_A_PORT = 20
_LONGEST_UNIX_PATH = 107  # bytes; what sockaddr_un holds
_PRIVATE = 0o177  # umask: a socket that only its owner can connect to

# What grpc clients take localhost for, whatever the machine's own files say: whoever held only one of the two would
# answer some of our callers.
_LOOPBACK_HOSTS = ("127.0.0.1", "::1")

# This machine does not have the address (IPv6 is often off in containers), so nobody else can listen there either.
_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class BindError(Exception):
    """An address cannot be listened on. The text says what to do."""


class Bound(NamedTuple):
    """Where the server listens: the address as it was asked for, with its real port, and all that were bound."""

    address: Address
    addresses: Sequence[Address]


async def bind(server: grpc.aio.Server, wanted: Address, credentials: Credentials | None) -> Bound:
    """Binds `wanted`, for a name all that it stands for. `credentials` makes those of TLS, anew for each of them.

    Raises:
        BindError: one of them cannot be bound.
    """
    if isinstance(wanted, UnixAddress):
        await asyncio.to_thread(_make_room, Path(wanted.path))
        _bind_unix(server, wanted, await _made(credentials))
        return Bound(wanted, [wanted])
    addresses = await _resolved(wanted)
    for address in addresses:
        _add_port(server, str(address), await _made(credentials))
    return Bound(TcpAddress(wanted.host, addresses[0].port), addresses)


async def _made(credentials: Credentials | None) -> grpc.ServerCredentials | None:
    return None if credentials is None else await asyncio.to_thread(credentials)


async def check_bindable(wanted: Address) -> None:
    """Finds out whether `wanted` could be bound now.

    Raises:
        BindError: it could not.
    """
    if isinstance(wanted, UnixAddress):
        await asyncio.to_thread(_refuse_live, Path(wanted.path))
    else:
        await _resolved(wanted)


async def _resolved(wanted: TcpAddress) -> list[TcpAddress]:
    """Returns the addresses that `wanted` stands for, all with the same free port.

    Each is tried with a socket of our own, since grpc says "failed" and no more, and for a name is content with any.
    """
    hosts = _LOOPBACK_HOSTS if wanted.host == LOOPBACK_NAME else await _looked_up(wanted)
    for _ in range(_TRIES_FOR_A_PORT if wanted.port == 0 else 1):
        try:
            return _tried(hosts, wanted.port)
        except OSError as error:
            failure = error
    raise _bind_error(wanted, failure) from failure


async def _looked_up(wanted: TcpAddress) -> Sequence[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BindError(f"LISTEN_ADDRESS: {wanted.host} cannot be resolved: {error.strerror}") from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _tried(hosts: Sequence[str], port: int) -> list[TcpAddress]:
    """Returns the hosts that this machine has, with `port`, or a free one that is the same for all.

    Raises:
        OSError: one of them is taken or forbidden, or there is none.
    """
    usable, absent = [], None
    for host in hosts:
        try:
            port = _try(host, port)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            absent = error
        else:
            usable.append(host)
    if absent is not None and not usable:
        raise absent
    return [TcpAddress(host, port) for host in usable]


def _try(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as grpc: connections of before do not count
        if family == socket.AF_INET6:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))  # as grpc
        trial.bind((host, port))
        trial.listen(1)  # without it, a port that is bound but not listened on passes
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
    except RuntimeError as error:  # taken in the moment since it was tried
        raise BindError(f"LISTEN_ADDRESS: {address} cannot be bound; try again") from error


def _bind_unix(server: grpc.aio.Server, address: UnixAddress, credentials: grpc.ServerCredentials | None) -> None:
    before = os.umask(_PRIVATE)
    try:
        _add_port(server, str(address), credentials)
    finally:
        os.umask(before)


def _make_room(path: Path) -> None:
    """Makes the directory of a socket, open to its owner only, and removes the socket of a server that has died."""
    if len(os.fsencode(path)) > _LONGEST_UNIX_PATH:
        raise BindError(f"LISTEN_ADDRESS: unix:{path} is longer than {_LONGEST_UNIX_PATH} bytes")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_live(path)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise BindError(f"LISTEN_ADDRESS: unix:{path} cannot be made: {error.strerror}") from error


def _refuse_live(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BindError(f"LISTEN_ADDRESS: {path} is there and no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            return
        except BlockingIOError:  # its queue is full, so it lives
            pass
    raise _bind_error(UnixAddress(str(path)), OSError(errno.EADDRINUSE, ""))
