"""`web`."""

import click

from runner_service.cli.errors import help_epilog
from runner_service.cli.target import Target, target_options


@click.command(epilog=help_epilog("runner-service web", "runner-service web --no-open"))
@click.option("--no-open", is_flag=True, help="Only writes the address, and opens no browser.")
@target_options
def web(*, no_open: bool, target: Target) -> int:
    """Opens the page of the local service in a browser, and starts the service if there is none."""
    from runner_service.cli.actions.web import open_page  # noqa: PLC0415  # gRPC, for this only

    return open_page(target, opens_browser=not no_open)
