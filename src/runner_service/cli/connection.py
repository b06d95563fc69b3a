"""The connection of a command to its service."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import grpc

from runner_service.addresses import is_loopback, parse_address
from runner_service.cli.exits import ExitCode, Failure
from runner_service.cli.target import Target
from runner_service.cli.views.lines import printable
from runner_service.client import RunnerClient

if TYPE_CHECKING:
    from runner_service.cli.own_service import OwnService

_TRIES = 3  # a service of our own may stop, being idle, in the moment between being found and being called
_QUEUE_PATIENCE = 600.0
_LOST, _FULL = "lost the service", "the queue of the service is full"
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"

_EXIT_CODES = {
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    grpc.StatusCode.INVALID_ARGUMENT: ExitCode.USAGE,
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.NO_PERMISSION,
    grpc.StatusCode.FAILED_PRECONDITION: ExitCode.CONFIG,
}
_NEXT_STEPS = {
    grpc.StatusCode.UNAUTHENTICATED: "Give the token with --token-file, or in AUTH_TOKEN.",
    grpc.StatusCode.NOT_FOUND: "`runner-service ps --all` lists the executions that there are.",
}


class Connection:
    """A client, and what to do when it loses its service."""

    def __init__(self, target: Target, own: "OwnService | None", address: str, say: Callable[[str], None]) -> None:
        self.target = target
        self._own = own
        self._say = say
        self._trouble = ""
        ca = target.ca() if target.server else None
        self.client = RunnerClient(
            address, token=target.token(), ca=ca, queue_patience=_QUEUE_PATIENCE, on_break=self._mend
        )

    async def check(self) -> None:
        """Makes sure that the service answers. Raises Failure."""
        for tries_left in reversed(range(_TRIES)):
            try:
                await self.client.is_ready()
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or self._own is None or not tries_left:
                    raise await _unreachable(self.client.address, self.target, error) from error
                await self._look_again(self._own)
            else:
                return

    def mended(self) -> None:
        """Says that events arrive again, if it was said that they do not."""
        if self._trouble:
            self._say("it is back" if self._trouble == _LOST else "it has room")
            self._trouble = ""

    async def _mend(self, error: grpc.aio.AioRpcError) -> None:
        """Looks for the service anew after a break. Where its queue is full, it is there."""
        if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._tell(_FULL, f"; trying again, for at most {_QUEUE_PATIENCE / 60:g} minutes")
            return
        self._tell(_LOST, f" ({error.details()}); trying again")
        if self._own is not None:
            try:
                await self._look_again(self._own)
            except Failure as failure:
                if failure.exit_code == ExitCode.CONFIG:
                    raise
                # Otherwise it may yet come: how long that is hoped for is the client's business.

    def _tell(self, trouble: str, more: str) -> None:
        if self._trouble != trouble:
            self._trouble = trouble
            self._say(f"{trouble}{more}")

    async def _look_again(self, own: "OwnService") -> None:
        address = await asyncio.to_thread(own.address)
        if address != self.client.address:
            await self.client.move_to(address)


@asynccontextmanager
async def connected(target: Target, own: "OwnService | None", say: Callable[[str], None]) -> AsyncIterator[Connection]:
    """Connects to the service that `target` names, or else to `own`, one of which there must be. `say` gets the news.

    Raises:
        Failure: there is none, or, within the context, a call to it was refused.
    """
    _check_address(target, say)
    with refusals_explained():
        address = target.server or ""
        if own is not None:
            address = await asyncio.to_thread(own.address)
        connection = Connection(target, own, address, say)
        async with connection.client:
            await connection.check()
            yield connection


@contextmanager
def refusals_explained() -> Iterator[None]:
    """Turns the status of a call into a Failure that says what to do."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        text = "\n".join(map(printable, (error.details() or error.code().name).splitlines()))
        if next_step := _NEXT_STEPS.get(error.code()):
            text += f"\n{next_step}"
        raise Failure(text, _EXIT_CODES.get(error.code(), ExitCode.FAILED)) from error


async def _unreachable(address: str, target: Target, error: grpc.aio.AioRpcError) -> Failure:
    details = printable(error.details() or "")
    text = f"the service at {address} cannot be reached: {details}"
    next_step = "Check --server, or leave it out to use a service of your own."
    if _UNTRUSTED in details:
        text = f"no authority that is trusted here vouches for the service at {address}: {details}"
        next_step = "Name the file of its authority with --ca-file."
    elif target.server and (tls := await _speaks_tls(address)) not in {None, target.uses_tls}:
        text = f"the service at {address} speaks {'TLS' if tls else 'no TLS'}"
        next_step = "Use --tls, or --ca-file with its authority." if tls else "Leave --tls and --ca-file out."
    return Failure(f"{text}\n{next_step}", ExitCode.UNAVAILABLE)


def _check_address(target: Target, say: Callable[[str], None]) -> None:
    if target.server is None:
        return
    try:
        address = parse_address(target.server)
    except ValueError as error:
        raise Failure(f"--server {target.server}: {error}", ExitCode.USAGE) from error
    if target.token() and not target.uses_tls and not is_loopback(address):
        say(f"the token crosses the network to {target.server} in the clear; --tls or --ca-file turns TLS on")


async def _speaks_tls(address: str) -> bool | None:
    from runner_service.cli.tls import speaks_tls  # noqa: PLC0415  # `ssl` takes 20 ms

    return await speaks_tls(parse_address(address))
