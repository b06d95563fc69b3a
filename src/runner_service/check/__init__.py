"""Checks what the settings name. Changes nothing and shows no secret."""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from runner_service.addresses import Address, TcpAddress
from runner_service.check.callers import callers_checks
from runner_service.check.confinement import confinement_check
from runner_service.check.daemon import daemon_check
from runner_service.check.daytona import daytona_check
from runner_service.check.machine import directory_check, listen_address_check, program_check, tls_check
from runner_service.check.network import reachable_check
from runner_service.check.provider import model_check
from runner_service.check.redis import redis_check
from runner_service.check.result import Check
from runner_service.check.temporal import temporal_check
from runner_service.check.tool_call import tool_call_check
from runner_service.settings import Settings, warnings_about

__all__ = ["Check", "run_checks"]

PendingCheck = Coroutine[object, object, Check]


async def run_checks(settings: Settings) -> list[Check]:
    """Returns the result of each check. It takes some seconds, with a model that has to be loaded a minute."""
    checks = await asyncio.gather(*_pending_checks(settings))
    if settings.callers_file is not None:
        checks += await callers_checks(settings, settings.callers_file)
    if _has_model(settings, checks):
        checks.append(await tool_call_check(settings))
    warnings = [Check(warning.variable, "warn", warning.text) for warning in warnings_about(settings)]
    return [*checks, *warnings]


def _has_model(settings: Settings, checks: list[Check]) -> bool:
    is_real = settings.stigmer_llm_provider != "scripted" and bool(settings.stigmer_llm_model)
    return is_real and any(each.name == "STIGMER_LLM_PROVIDER" and each.status == "ok" for each in checks)


def _pending_checks(settings: Settings) -> Iterator[PendingCheck]:
    yield listen_address_check(settings)
    yield directory_check("STATE_DIR", settings.state_dir)
    if settings.sandbox_type == "filesystem":
        yield directory_check("SANDBOX_ROOT_DIR", Path(settings.sandbox_root_dir))
        yield program_check("bash", "commands run under sh, which understands less", "install bash")
        yield program_check("git", "agents cannot use it", "install git, if agents should")
        yield confinement_check(settings)
        yield program_check("rg", "searches take the slower way", "install ripgrep, if they should be faster")
    else:
        yield daytona_check(settings)
    if settings.tls_cert_file is not None:
        yield tls_check(settings)
    if settings.has_redis():
        yield redis_check(settings)
    yield model_check(settings)
    if settings.stigmer_backend_endpoint is not None:
        yield daemon_check(settings)
    if settings.runs_temporal_worker():
        yield temporal_check(settings)
    for name, address in _endpoints(settings):
        yield reachable_check(name, address)


def _endpoints(settings: Settings) -> Iterator[tuple[str, Address]]:
    collector = settings.otel_exporter_otlp_traces_endpoint or settings.otel_exporter_otlp_endpoint
    if collector is not None and settings.exports_traces():
        yield "OTEL_EXPORTER_OTLP_ENDPOINT", _address_of(collector)


def _address_of(url: str) -> TcpAddress:
    parts = urlsplit(url)
    return TcpAddress(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
