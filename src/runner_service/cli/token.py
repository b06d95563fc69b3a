"""`token`: makes and checks the tokens of CALLERS_FILE."""

import sys

import click

from runner_service.cli.errors import CommandError, ExitCode, help_epilog
from runner_service.cli.parameters import AGE


@click.group(
    short_help="Makes and checks tokens for callers.",
    epilog=help_epilog(
        "runner-service token new acme-ci --expires 90d",
        "runner-service token check < token",
    ),
)
def token() -> None:
    """Makes tokens for the callers of CALLERS_FILE, and checks them without a service."""


@token.command(epilog=help_epilog("runner-service token new acme-ci", "runner-service token new acme-ci --expires 90d"))
@click.argument("name")
@click.option("--expires", type=AGE, help="After how long it is refused: 30m, 2h, 90d. Without it: never.")
def new(name: str, expires: float | None) -> None:
    """Prints a new token on stdout, once, and on stderr the line for `tokens` of the caller NAME in CALLERS_FILE.

    The file holds only a hash: a token that is lost cannot be shown again. To rotate one, add the new line, give the
    new token to the caller, and then remove the old line.
    """
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415  # only needed here

    from runner_service.api.callers.tokens import new_token  # noqa: PLC0415  # gRPC, for this only

    made = new_token()
    until = f", expires: {datetime.now(UTC) + timedelta(seconds=expires):%Y-%m-%dT%H:%M:%SZ}" if expires else ""
    click.echo(f"For the tokens of {name} in CALLERS_FILE:", err=True)
    click.echo(f"  - {{id: {made.id}, sha256: {made.sha256}{until}}}", err=True)
    click.echo(made.token)


@token.command(epilog=help_epilog("runner-service token check < token"))
def check() -> None:
    """Reads a token from stdin, and prints its id and SHA-256. Fails if it was mistyped or cut."""
    from runner_service.api.callers.tokens import token_hash, token_id  # noqa: PLC0415  # gRPC, for this only

    text = sys.stdin.read(1024).strip()
    found = token_id(text)
    if found is None:
        raise CommandError("that is not a token of this service, or it was mistyped or cut", ExitCode.FAILED)
    click.echo(f"id: {found}\nsha256: {token_hash(text).hex()}")
