"""`serve`."""

import asyncio
import logging
import os
import sys
import threading

import uvloop

from runner_service import serving
from runner_service.agent.loader import LOADER_THREAD
from runner_service.api.callers.file_errors import CallersFileError
from runner_service.approvals.validation import PolicyFileError
from runner_service.cli.environment import settings_from
from runner_service.cli.errors import CommandError, ExitCode, print_message
from runner_service.cli.secret_variables import pop_secrets, prompt_for_missing_key, read_secrets
from runner_service.executors.protocol import SandboxError
from runner_service.executors.supervisor.dumpable import make_undumpable
from runner_service.server import BindError
from runner_service.settings import Settings, warnings_about
from runner_service.storage.event_log import LogError, StateDirError
from runner_service.telemetry import telemetry

_MIN_FLUSH_SECONDS = 0.2

logger = logging.getLogger(__name__)


def serve_until_stopped(options: serving.ServeOptions, secrets_fd: int | None) -> None:
    """Serves until a signal or idleness ends it.

    Raises:
        CommandError: it cannot start.
    """
    make_undumpable()
    settings = read_settings(secrets_fd)
    with telemetry(settings) as flush, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for variable, text in warnings_about(settings):
            if sys.stderr.isatty():
                print_message(f"warning: {variable} {text}")
            else:
                logger.warning("setting_questionable variable=%s text=%s", variable, text)
        seconds_left = runner.run(_serve(settings, options))
        flush.timeout_seconds = min(flush.timeout_seconds, max(_MIN_FLUSH_SECONDS, seconds_left / 8))
    _exit_if_loading()


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


def _exit_if_loading() -> None:
    """Exits at once if a thread still imports the agent loop: the interpreter might wait for it, or trip over it."""
    if any(thread.name == LOADER_THREAD for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(ExitCode.SUCCEEDED)


async def _serve(settings: Settings, options: serving.ServeOptions) -> float:
    try:
        return await serving.serve(settings, options)
    except BaseException as error:
        from runner_service.models.prices import PricesFileError  # noqa: PLC0415  # pydantic, for this only

        if texts := _reasons(error, (StateDirError, PolicyFileError, PricesFileError, CallersFileError)):
            raise CommandError("\n".join(texts), ExitCode.CONFIG) from error
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
