"""Which service a command talks to: the options that say it, and their meaning."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from runner_service.cli.exits import ExitCode, Failure

ADDRESS_VARIABLE = "RUNNER_SERVICE_ADDRESS"


@dataclass(frozen=True)
class Target:
    """The service that was asked for. `server` None is the one that holds STATE_DIR, or else one of our own."""

    server: str | None
    token_file: Path | None
    ca_file: Path | None

    def token(self) -> str | None:
        """Returns the token to send: of --token-file, AUTH_TOKEN or AUTH_TOKEN_FILE.

        Raises:
            Failure: the file cannot be read, or is empty.
        """
        if self.token_file is None and (token := os.environ.get("AUTH_TOKEN")):
            return token
        file = self.token_file or os.environ.get("AUTH_TOKEN_FILE")
        if not file:
            return None
        if token := _content(Path(file)).decode(errors="replace").strip():
            return token
        raise Failure(f"the token file {file} is empty", ExitCode.USAGE)

    def ca(self) -> bytes | None:
        """Returns the authority, PEM; None without TLS. Raises Failure."""
        return None if self.ca_file is None else _content(self.ca_file)

    def flags(self) -> str:
        """Returns what has to follow another command for the same service, beginning with a space if anything."""
        parts = {"--server": self.server, "--token-file": self.token_file, "--ca-file": self.ca_file}
        return "".join(f" {name} {value}" for name, value in parts.items() if value is not None)


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options, and passes their meaning to it as `target`."""

    @click.option(
        "--server",
        envvar=ADDRESS_VARIABLE,
        metavar="ADDRESS",
        help=f"The service, host:port or unix:PATH; also {ADDRESS_VARIABLE}. Without it: the one that holds "
        "STATE_DIR, or else one of our own.",
    )
    @click.option(
        "--token-file", type=click.Path(path_type=Path), help="A file with the token; else AUTH_TOKEN, AUTH_TOKEN_FILE."
    )
    @click.option(
        "--ca-file", type=click.Path(path_type=Path), help="Use TLS; the authority (PEM) of the service's certificate."
    )
    @functools.wraps(command)
    def with_target(
        *args: Any, server: str | None, token_file: Path | None, ca_file: Path | None, **options: Any
    ) -> Any:
        return command(*args, target=Target(server or None, token_file, ca_file), **options)

    return with_target


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}", ExitCode.USAGE) from error
