"""Serves until a signal stops the service, or it is idle: announces where it listens, drains, and stops."""

import asyncio
from pathlib import Path
from typing import NamedTuple

from runner_service.app import RunningService, running_service, sandbox_root
from runner_service.server import ServiceFile, StopRequests, announce_ready, service_file, stop_signals
from runner_service.settings import Settings

_CLOUD_LAME_DUCK_SECONDS = 2.0  # for load balancers to see NOT_SERVING; a daemon on the same machine needs none


class ServeOptions(NamedTuple):
    """How to serve, apart from the settings."""

    ready_fd: int | None = None
    """Where to write the address as a line of JSON, beside SERVICE_FILE."""
    ready_file: Path | None = None
    """The same, as a file."""
    exit_when_idle: float | None = None
    """Stop when nothing has run and nobody has watched for so many seconds."""
    load_agent_at_start: bool = True
    """Load the agent loop at once, rather than with the first execution."""


async def serve(settings: Settings, options: ServeOptions = ServeOptions()) -> float:  # noqa: B008  # immutable
    """Serves until a signal stops it, or it is idle. Returns the seconds that are left of DRAIN_TIMEOUT.

    Raises:
        BindError, TlsError, LogError, SandboxError: it cannot start; the text says what to do.
    """
    with stop_signals() as requests:
        async with service_file(settings.state_dir) as file, running_service(settings) as service:
            await file.write(service.address, _about(settings, service))
            await _serve_until_stopped(settings, options, service, file, requests)
        return max(0.0, settings.drain_timeout - requests.seconds_since_first())


async def _serve_until_stopped(
    settings: Settings, options: ServeOptions, service: RunningService, file: ServiceFile, requests: StopRequests
) -> None:
    async def drain(timeout_seconds: float) -> None:
        await file.mark_stopping()
        await service.executions.drain(timeout_seconds)

    async with (
        announce_ready(
            service.address, fd=options.ready_fd, file=options.ready_file, about=_other_addresses(settings, service)
        ),
        asyncio.TaskGroup() as tasks,
    ):
        service.begin_loading(with_agent_loop=options.load_agent_at_start)
        idle = tasks.create_task(_stop_when_idle(service, options.exit_when_idle, requests))
        await service.server.serve_until_stopped(
            requests,
            drain,
            lame_duck=0.0 if settings.is_local_mode() else _CLOUD_LAME_DUCK_SECONDS,
            drain_timeout=settings.drain_timeout,
        )
        idle.cancel()


def _about(settings: Settings, service: RunningService) -> dict[str, str]:
    return {"sandbox_root": str(sandbox_root(settings)), "mode": settings.mode} | _other_addresses(settings, service)


def _other_addresses(settings: Settings, service: RunningService) -> dict[str, str]:
    scheme = ("https" if settings.tls_cert_file else "http") if service.web_address else ""
    others = {"metrics_address": service.metrics_address, "web_address": service.web_address, "web_scheme": scheme}
    return {name: address for name, address in others.items() if address}


async def _stop_when_idle(service: RunningService, idle_seconds: float | None, requests: StopRequests) -> None:
    if idle_seconds is not None:
        await service.server.idle(idle_seconds, lambda: service.executions.is_busy)
        requests.request()
