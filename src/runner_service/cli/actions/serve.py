"""`serve`."""

import asyncio
import logging
import os
import sys
from pathlib import Path

import uvloop

from runner_service import app
from runner_service.cli.environment import settings_from
from runner_service.cli.errors import CommandError, ExitCode, print_message
from runner_service.cli.secret_variables import pop_secrets, prompt_for_missing_key, read_secrets
from runner_service.executors.protocol import SandboxError
from runner_service.executors.supervisor.dumpable import make_undumpable
from runner_service.server import BindError
from runner_service.settings import Settings, warnings_about
from runner_service.storage.event_log import LogError
from runner_service.telemetry import telemetry

logger = logging.getLogger(__name__)


def serve_until_stopped(
    *, ready_fd: int | None, ready_file: Path | None, secrets_fd: int | None, exit_when_idle: float | None
) -> None:
    """Serves until a signal or idleness ends it.

    Raises:
        CommandError: it cannot start.
    """
    make_undumpable()
    settings = read_settings(secrets_fd)
    with telemetry(settings), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for variable, text in warnings_about(settings):
            if sys.stderr.isatty():
                print_message(f"warning: {variable} {text}")
            else:
                logger.warning("setting_questionable variable=%s text=%s", variable, text)
        runner.run(_serve(settings, ready_fd, ready_file, exit_when_idle))


def read_settings(secrets_fd: int | None) -> Settings:
    """Returns the settings, with the keys that come by other ways. Takes all keys out of our own environment.

    Raises:
        CommandError: they, or what `secrets_fd` gives, are wrong.
    """
    environ = {**os.environ, **({} if secrets_fd is None else read_secrets(secrets_fd))}
    pop_secrets(os.environ)
    settings = settings_from(environ)
    asked = prompt_for_missing_key(settings, settings.stigmer_llm_provider)
    return settings_from({**environ, **asked}) if asked else settings


async def _serve(
    settings: Settings, ready_fd: int | None, ready_file: Path | None, exit_when_idle: float | None
) -> None:
    try:
        await app.serve(settings, ready_fd=ready_fd, ready_file=ready_file, exit_when_idle=exit_when_idle)
    except BaseException as error:
        if texts := _reasons(error, (LogError,)):
            raise CommandError("\n".join(texts), ExitCode.LOG_UNAVAILABLE) from error
        if texts := _reasons(error, _expected(settings)):
            raise CommandError("\n".join(texts), ExitCode.UNAVAILABLE) from error
        raise


def _expected(settings: Settings) -> tuple[type[Exception], ...]:
    if settings.tls_cert_file is None:
        return BindError, SandboxError
    from runner_service.server.tls import TlsError  # noqa: PLC0415  # `ssl` takes 20 ms of the start

    return BindError, SandboxError, TlsError


def _reasons(error: BaseException, expected: tuple[type[Exception], ...]) -> list[str]:
    """Returns the texts of the expected errors, also of those that task groups have wrapped."""
    if isinstance(error, BaseExceptionGroup):
        return [text for each in error.exceptions for text in _reasons(each, expected)]
    return [str(error)] if isinstance(error, expected) else []
