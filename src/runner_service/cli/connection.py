"""The connection of a command to its service."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from runner_service.addresses import is_loopback, parse_address
from runner_service.cli.errors import CommandError, ExitCode, print_message
from runner_service.cli.silent_grpc import grpc
from runner_service.cli.target import Target
from runner_service.cli.views.lines import printable
from runner_service.client import ClientCertificate, RunnerClient

if TYPE_CHECKING:
    from runner_service.cli.private_service import PrivateService

_CONNECT_ATTEMPTS = 3  # a private service may stop, being idle, between being found and being called
_QUEUE_TIMEOUT_SECONDS = 600.0
_LOST, _FULL = "lost the service", "the queue of the service is full"
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"

_EXIT_CODES = {
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    grpc.StatusCode.INVALID_ARGUMENT: ExitCode.USAGE,
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.NO_PERMISSION,
    grpc.StatusCode.FAILED_PRECONDITION: ExitCode.CONFIG,
}
_OPTIONS = {
    "agent.model.provider": "--model",
    "agent.model.name": "--model",
    "agent.instructions": "--instructions",
    "limits.timeout": "--timeout",
    "execution_id": "--id",
    "session_id": "--session",
}
"""What the command line calls the fields that messages of the service name."""

_NEXT_STEPS = {
    grpc.StatusCode.UNAUTHENTICATED: "Give the token with --token-file, or in AUTH_TOKEN.",
    grpc.StatusCode.NOT_FOUND: "`runner-service ps --all` lists the executions that there are.",
}


class Connection:
    """A client that finds its service again when the connection is lost."""

    def __init__(
        self, target: Target, own: "PrivateService | None", address: str, report: Callable[[str], None]
    ) -> None:
        self.target = target
        self._own = own
        self._report = report
        self._outage = ""
        target.token()  # raises now if the file cannot be read
        self.client = RunnerClient(
            address,
            token=target.token,
            ca=target.ca() if target.server else None,
            certificate=certificate_of(target),
            tenant=target.tenant,
            queue_timeout=_QUEUE_TIMEOUT_SECONDS,
            on_disconnect=self._reconnect,
        )

    async def check(self) -> None:
        """Waits until the service answers. Raises CommandError."""
        for tries_left in reversed(range(_CONNECT_ATTEMPTS)):
            try:
                await self.client.is_ready()
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or self._own is None or not tries_left:
                    raise await _unreachable(self.client.address, self.target, error) from error
                await self._find_service_again(self._own)
            else:
                return

    def report_recovery(self) -> None:
        """Reports that the service is back, if its loss was reported."""
        if self._outage:
            self._report("it is back" if self._outage == _LOST else "it has room")
            self._outage = ""

    async def _reconnect(self, error: grpc.aio.AioRpcError) -> None:
        """Finds the service again after a disconnect; with a full queue it is still there."""
        if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._report_outage(_FULL, f"; trying again, for at most {_QUEUE_TIMEOUT_SECONDS / 60:g} minutes")
            return
        self._report_outage(_LOST, f" ({error.details()}); trying again")
        if self._own is not None:
            try:
                await self._find_service_again(self._own)
            except CommandError as failure:
                if failure.exit_code == ExitCode.CONFIG:
                    raise
                # Otherwise it may still come back; the client's timeout decides how long to try.

    def _report_outage(self, outage: str, more: str) -> None:
        if self._outage != outage:
            self._outage = outage
            self._report(f"{outage}{more}")

    async def _find_service_again(self, own: "PrivateService") -> None:
        address = await own.address(self._report)
        if address != self.client.address:
            await self.client.move_to(address)


def certificate_of(target: Target) -> ClientCertificate | None:
    """Returns the client certificate to present. Raises CommandError."""
    found = target.certificate()
    return ClientCertificate(*found) if found else None


@asynccontextmanager
async def connected(
    target: Target, own: "PrivateService | None", report: Callable[[str], None]
) -> AsyncIterator[Connection]:
    """Connects to the service that `target` names, or else to `own`. `report` gets what happens to the connection.

    Raises:
        CommandError: there is none, or, within the context, a call to it failed.
    """
    _check_address(target, report)
    with explained_rpc_errors():
        address = target.server or ""
        if own is not None:
            address = await own.address(report)
        connection = Connection(target, own, address, report)
        async with connection.client:
            await connection.check()
            yield connection


@asynccontextmanager
async def connected_for_reading(target: Target) -> AsyncIterator[Connection]:
    """Connects as `connected` does; the service may have any root and mode, and is started if there is none."""
    own = None
    if target.server is None:
        from runner_service.cli.private_service import PrivateService  # noqa: PLC0415  # for this only

        own = PrivateService(os.environ, anywhere=True)
    async with connected(target, own, print_message) as connection:
        yield connection


@contextmanager
def explained_rpc_errors() -> Iterator[None]:
    """Turns an rpc status into a CommandError with the next step."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        text = "\n".join(map(printable, (error.details() or error.code().name).splitlines()))
        for field, option in _OPTIONS.items():
            text = text.replace(field, option)
        if next_step := _NEXT_STEPS.get(error.code()):
            text += f"\n{next_step}"
        raise CommandError(text, _EXIT_CODES.get(error.code(), ExitCode.FAILED)) from error


async def _unreachable(address: str, target: Target, error: grpc.aio.AioRpcError) -> CommandError:
    details = printable(error.details() or "")
    text = f"the service at {address} cannot be reached: {details}"
    next_step = "Check --server, or leave it out to use a service of your own."
    if _UNTRUSTED in details:
        text = f"the certificate of the service is not trusted: {address}: {details}"
        next_step = "Name the file of its authority with --ca-file."
    elif target.server and (tls := await _speaks_tls(address)) not in {None, target.uses_tls}:
        text = f"the service at {address} speaks {'TLS' if tls else 'no TLS'}"
        next_step = "Use --tls, or --ca-file with its authority." if tls else "Leave --tls and --ca-file out."
    return CommandError(f"{text}\n{next_step}", ExitCode.UNAVAILABLE)


def _check_address(target: Target, report: Callable[[str], None]) -> None:
    if target.server is None:
        return
    try:
        address = parse_address(target.server)
    except ValueError as error:
        raise CommandError(f"--server {target.server}: {error}", ExitCode.USAGE) from error
    if target.token() and not target.uses_tls and not is_loopback(address):
        report(f"the token crosses the network to {target.server} in the clear; --tls or --ca-file turns TLS on")


async def _speaks_tls(address: str) -> bool | None:
    from runner_service.cli.tls import speaks_tls  # noqa: PLC0415  # `ssl` takes 20 ms

    return await speaks_tls(parse_address(address))
