"""The cells of an executor: one for each confined execution, with private directories for its session."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from runner_service.executors.confinement import Confinement
from runner_service.executors.egress.proxy import egress_proxy, proxy_environment
from runner_service.executors.local.commands import SupervisorSource
from runner_service.executors.local.confinement.cell import Cell
from runner_service.executors.local.confinement.confiner import Confiner
from runner_service.executors.local.confinement.file_rules import FileRules
from runner_service.executors.local.confinement.mounts import (
    PrivateDirectories,
    environment_for,
    thread_environment,
    visible_cache,
)
from runner_service.executors.local.confinement.private import BEYOND_MEASURE, PrivateStore
from runner_service.executors.local.supervisor_client import SupervisorClient
from runner_service.executors.protocol import SandboxSpec

_MEASURE_INTERVAL_SECONDS = 2.0
_PLAIN_NAME = re.compile(r"([a-z0-9][a-z0-9-]{0,39}~)?[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class CacheBounds(NamedTuple):
    """How long private directories are kept without use, and how much all of them may take between executions."""

    max_age_seconds: float = 7 * 24 * 3600.0
    max_bytes: int = 4 << 30


class Cells:
    """Opens cells, and keeps the private directories of their sessions below `state_dir`."""

    def __init__(self, confiner: Confiner, state_dir: Path, bounds: CacheBounds) -> None:
        self.confiner = confiner
        self._private = PrivateStore(state_dir, max_age_seconds=bounds.max_age_seconds, max_bytes=bounds.max_bytes)

    async def file_rules(self, confinement: Confinement, root: str) -> FileRules | None:
        """Returns the rules of the file tools in `root`; None when they are not confined."""
        if not confinement:
            return None
        return await asyncio.to_thread(self.confiner.file_rules, confinement, root)

    @asynccontextmanager
    async def open(
        self, spec: SandboxSpec, *, root: str, scope_root: str, environment: dict[str, str]
    ) -> AsyncIterator[SupervisorSource]:
        """Begins to open a cell for the block, in the background. `environment` gets the variables that it needs."""
        name = plain_name(spec.session_id) if spec.session_id else f"+{plain_name(spec.execution_id)}"
        private = await asyncio.to_thread(self._private.acquire, name)
        is_thread = (await self.confiner.ability()).is_thread
        opening = self._open_thread if is_thread else self._open_cell
        try:
            async with (
                self._measured(name, spec.on_private_bytes),
                opening(spec, root, scope_root, environment, private) as source,
            ):
                yield source
        finally:
            await asyncio.to_thread(self._private.release, name, keep=bool(spec.session_id))

    @asynccontextmanager
    async def _measured(self, name: str, on_private_bytes: Callable[[int], None]) -> AsyncIterator[None]:
        """Tells now and then by how much the private directories have grown since the block began."""

        async def measure() -> None:
            before = await asyncio.to_thread(self._private.size_of, name)
            before = 0 if before == BEYOND_MEASURE else before
            while True:
                await asyncio.sleep(_MEASURE_INTERVAL_SECONDS)
                size = await asyncio.to_thread(self._private.size_of, name)
                on_private_bytes(max(0, size - before))

        measuring = asyncio.create_task(measure(), name="private-directories-measuring")
        try:
            yield
        finally:
            measuring.cancel()
            await asyncio.wait([measuring])

    @asynccontextmanager
    async def _open_thread(
        self, spec: SandboxSpec, root: str, scope_root: str, environment: dict[str, str], private: PrivateDirectories
    ) -> AsyncIterator[SupervisorSource]:
        environment.update({**thread_environment(spec.confinement, private), **spec.environment})
        thread = await asyncio.to_thread(
            lambda: self.confiner.thread(spec.confinement, root=root, scope_root=scope_root, private=private)
        )
        try:
            yield thread
        finally:
            thread.close()

    @asynccontextmanager
    async def _open_cell(
        self, spec: SandboxSpec, root: str, scope_root: str, environment: dict[str, str], private: PrivateDirectories
    ) -> AsyncIterator[SupervisorSource]:
        cache = await asyncio.to_thread(visible_cache, spec.confinement, environment["HOME"])
        environment.update({**environment_for(cache), **spec.environment})
        async with AsyncExitStack() as proxies:

            async def on_open(client: SupervisorClient, ready: Mapping[str, object]) -> None:
                await proxies.aclose()
                if spec.egress and (port := ready.get("proxy_port")):
                    await proxies.enter_async_context(egress_proxy(client.take_listener(), spec.egress))
                    environment.update({**proxy_environment(int(str(port))), **spec.environment})

            cell = self.confiner.cell(
                spec.confinement,
                root=root,
                scope_root=scope_root,
                private=private,
                home_cache=cache,
                on_open=on_open,
            )
            cell.open_soon()
            try:
                yield cell
            finally:
                await _close(cell, spec)


async def _close(cell: Cell, spec: SandboxSpec) -> None:
    if spec.egress and (repeated := spec.egress.repeated_denials()):
        spec.notify("NETWORK_DENIED", f"Connections were refused by the confinement: {repeated}.")
    await cell.close()


def plain_name(identifier: str) -> str:
    """Returns a file name for a session or an execution: its own id if that is a plain file name, else a hash of it."""
    if _PLAIN_NAME.fullmatch(identifier):
        return identifier
    return "session-" + hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()[:32]
