"""The options that name the service to call."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from runner_service.cli.errors import CommandError, ExitCode

ADDRESS_VARIABLE = "RUNNER_SERVICE_ADDRESS"


@dataclass(frozen=True)
class Target:
    """The service to call. `server` None: the one that holds STATE_DIR, or else a private one."""

    server: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    tls: bool = False
    cert_file: Path | None = None
    key_file: Path | None = None
    tenant: str = ""

    @property
    def uses_tls(self) -> bool:
        """Whether to use TLS."""
        return self.tls or self.ca_file is not None or self.cert_file is not None

    def token(self) -> str | None:
        """Returns the token to send: of --token-file, AUTH_TOKEN or AUTH_TOKEN_FILE.

        Raises:
            CommandError: the file cannot be read, or is empty.
        """
        if self.token_file is None and (token := os.environ.get("AUTH_TOKEN")):
            return token
        file = self.token_file or os.environ.get("AUTH_TOKEN_FILE")
        if not file:
            return None
        if token := _content(Path(file)).decode(errors="replace").strip():
            return token
        raise CommandError(f"the token file {file} is empty", ExitCode.USAGE)

    def ca(self) -> bytes | None:
        """Returns the trusted CA certificates, PEM; empty: those of gRPC; None: no TLS. Raises CommandError."""
        if self.ca_file is not None:
            return _content(self.ca_file)
        if not self.uses_tls:
            return None
        from runner_service.cli.tls import system_ca_file  # noqa: PLC0415  # 20 ms, for TLS only

        file = system_ca_file()
        return _content(file) if file else b""

    def certificate(self) -> tuple[bytes, bytes] | None:
        """Returns the private key and the certificate chain to present, PEM; None without. Raises CommandError."""
        if self.cert_file is None and self.key_file is None:
            return None
        if self.cert_file is None or self.key_file is None:
            raise CommandError("--cert-file and --key-file are only given together", ExitCode.USAGE)
        return _content(self.key_file), _content(self.cert_file)

    def flags(self) -> str:
        """Returns the options that name this service, for another command line; begins with a space if not empty."""
        parts = {
            "--server": self.server,
            "--token-file": self.token_file,
            "--ca-file": self.ca_file,
            "--cert-file": self.cert_file,
            "--key-file": self.key_file,
            "--tenant": self.tenant or None,
        }
        flags = "".join(f" {name} {value}" for name, value in parts.items() if value is not None)
        return f"{flags} --tls" if self.tls else flags


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets their value as `target`."""

    @click.option(
        "--server",
        envvar=ADDRESS_VARIABLE,
        metavar="ADDRESS",
        help=f"The service, host:port or unix:PATH; also {ADDRESS_VARIABLE}. Without it: the one that holds "
        "STATE_DIR, or else a private one that is started.",
    )
    @click.option(
        "--token-file", type=click.Path(path_type=Path), help="A file with the token; else AUTH_TOKEN, AUTH_TOKEN_FILE."
    )
    @click.option("--tls", is_flag=True, help="Use TLS, and trust the authorities that this machine trusts.")
    @click.option("--ca-file", type=click.Path(path_type=Path), help="Use TLS, and trust this authority (PEM) instead.")
    @click.option("--cert-file", type=click.Path(path_type=Path), help="Use TLS with this client certificate (PEM).")
    @click.option("--key-file", type=click.Path(path_type=Path), help="The private key of --cert-file.")
    @click.option("--tenant", default="", metavar="NAME", help="Act for this tenant rather than for one's own.")
    @functools.wraps(command)
    def with_target(*args: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in _TARGET_OPTIONS}
        given["server"] = given["server"] or None
        return command(*args, target=Target(**given), **options)

    return with_target


_TARGET_OPTIONS = ("server", "token_file", "ca_file", "tls", "cert_file", "key_file", "tenant")


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}", ExitCode.USAGE) from error
