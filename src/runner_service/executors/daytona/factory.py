"""Builds the Daytona executor from the settings."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

from runner_service.executors.daytona.config import SandboxConfig
from runner_service.executors.daytona.executor import Account, DaytonaExecutor, daytona_executor
from runner_service.executors.daytona.session import CommandLimits
from runner_service.settings import SecretStr, Settings


def configured(settings: Settings, serving: asyncio.Event) -> AbstractAsyncContextManager[DaytonaExecutor]:
    """Opens the executor. The SDK is loaded once `serving` is set or the first sandbox is opened."""
    account = Account(
        api_key=settings.daytona_api_key or SecretStr(""),
        api_url=settings.daytona_api_url,
        target=settings.daytona_target or "",
    )
    config = SandboxConfig(
        owner=settings.daytona_owner,
        snapshot=settings.daytona_dev_tools_snapshot_id or "",
        auto_stop_minutes=settings.daytona_auto_stop_minutes,
        ttl_minutes=settings.daytona_ttl_minutes,
        session_days=settings.daytona_session_days,
        start_timeout=settings.daytona_start_timeout,
        outage_timeout=settings.daytona_outage_timeout,
        warm=settings.daytona_warm_sandboxes,
        network_block_all=settings.daytona_network_block_all,
        network_allow_list=settings.daytona_network_allow_list.replace(" ", ""),
        volumes=tuple(_volumes(settings.daytona_volumes)),
    )
    given = settings.given  # the defaults fit this machine, not the sandbox
    limits = CommandLimits(
        terminate_grace=settings.kill_grace,
        memory=settings.sandbox_max_memory_bytes if "sandbox_max_memory_bytes" in given else None,
        processes=settings.sandbox_max_processes if "sandbox_max_processes" in given else None,
        cpu_time=settings.sandbox_max_cpu_seconds,
    )
    return daytona_executor(account, config, begin=serving, limits=limits)


def _volumes(text: str) -> Iterator[tuple[str, str]]:
    for each in filter(None, text.split(",")):
        name, _, path = each.partition(":")
        yield name, path
