"""`web`."""

import asyncio
import os
import secrets
import sys
from urllib.parse import quote

import click

from runner_service.cli.connection import connected
from runner_service.cli.errors import CommandError, ExitCode, print_message
from runner_service.cli.private_service import PrivateService
from runner_service.cli.signals import cancelled_by_termination, counting_interrupts
from runner_service.cli.target import Target
from runner_service.client import RunnerClient
from runner_service.state_dir import HoldingService, find_service

_TOKEN_BYTES = 24


def open_page(target: Target, *, opens_browser: bool) -> int:
    """Shows the page of the local service. One that it has to start stays until Ctrl-C. Raises CommandError."""
    if target.server is not None:
        raise CommandError("the page of another service is at its WEB_ADDRESS: open that in a browser", ExitCode.USAGE)
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    own = PrivateService({**os.environ, "WEB_ADDRESS": "localhost:0", "WEB_TOKEN": token}, anywhere=True)
    found = find_service(own.settings.state_dir)
    if found and not found.is_stopping:
        _show(found, target.token(), opens_browser=opens_browser)
        return ExitCode.SUCCEEDED
    try:
        return asyncio.run(_serve(target, own, token, opens_browser=opens_browser))
    except asyncio.CancelledError:
        return ExitCode.TERMINATED


async def _serve(target: Target, own: PrivateService, token: str, *, opens_browser: bool) -> int:
    with cancelled_by_termination(), counting_interrupts() as interrupts:
        async with connected(target, own, print_message) as connection:
            watching = asyncio.ensure_future(_watch(connection.client))
            try:
                found = await asyncio.to_thread(find_service, own.settings.state_dir)
                if found is None:
                    raise CommandError("the service has ended; its log says why", ExitCode.UNAVAILABLE)
                _show(found, token, opens_browser=opens_browser)
                print_message("Ctrl-C ends the service once nothing runs")
                interrupted = asyncio.ensure_future(interrupts.next())
                await asyncio.wait([watching, interrupted], return_when=asyncio.FIRST_COMPLETED)
            finally:
                watching.cancel()
    return ExitCode.SUCCEEDED


async def _watch(client: RunnerClient) -> None:
    """Keeps the service from ending for want of callers, until it stops."""
    async for _ in client.watch_approvals():
        pass


def _show(found: HoldingService, token: str | None, *, opens_browser: bool) -> None:
    if not found.web_address:
        raise CommandError(
            f"the service with pid {found.pid} has no page: set WEB_ADDRESS for it, or try again once it has ended",
            ExitCode.UNAVAILABLE,
        )
    address = f"{found.web_scheme}://{found.web_address}/" + (f"#token={quote(token, safe='')}" if token else "")
    click.echo(address)
    if opens_browser and sys.stdout.isatty():
        click.launch(address)
