"""`serve`."""

import os
from pathlib import Path

import click

from runner_service.cli.errors import help_epilog
from runner_service.importing import large_import


@click.command(
    short_help="Runs the service, for other programs.",
    epilog=help_epilog(
        "MODE=local runner-service serve",
        "MODE=local LISTEN_ADDRESS=unix:/run/user/1000/agents.sock runner-service serve",
        "vault-read | MODE=local runner-service serve --secrets-fd 0",
    ),
)
@click.option("--ready-fd", type=click.IntRange(min=0), metavar="N", help="Writes a line of JSON here once it serves.")
@click.option("--ready-file", type=click.Path(path_type=Path), help="Writes the same line to a file.")
@click.option(
    "--secrets-fd",
    type=click.IntRange(min=0),
    metavar="N",
    help='Reads keys from here, to its end: JSON, {"OPENAI_API_KEY": "…"}. They then stand in no environment.',
)
@click.option(
    "--exit-when-idle", type=click.FloatRange(min=0), metavar="SECONDS", help="Stops when nothing runs for so long."
)
@click.option("--load-agent-when-needed", is_flag=True, hidden=True)
def serve(
    ready_fd: int | None,
    ready_file: Path | None,
    secrets_fd: int | None,
    exit_when_idle: float | None,
    *,
    load_agent_when_needed: bool,
) -> None:
    """Runs the service until SIGTERM or Ctrl-C; the second one does not wait for what still runs.

    It is set up by environment variables; `runner-service check` lists them. On a terminal it asks for the key of the
    model provider when that is missing.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them takes 10 ms
    with large_import():
        from runner_service.cli.actions.serve import serve_until_stopped  # noqa: PLC0415  # gRPC, for this only
        from runner_service.serving import ServeOptions  # noqa: PLC0415  # gRPC, for this only

    options = ServeOptions(ready_fd, ready_file, exit_when_idle, not load_agent_when_needed)
    serve_until_stopped(options, secrets_fd)
