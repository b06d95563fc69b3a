"""The agent loop comes with a second of imports: they happen in the background, once the service can be called."""

import asyncio
import gc
import logging
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runner_service.agent.interface import AgentLoop
from runner_service.errors import ExecutionEnd, LogUnavailableEnd
from runner_service.settings import Settings

if TYPE_CHECKING:
    from runner_service.agent.harness import AgentHarness

logger = logging.getLogger(__name__)

_TRACING_TO_OTHERS = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")
"""Variables by which LangChain would send whole prompts to a service of its maker."""

_BRISK_SWITCH_SECONDS = 0.0005
_GC_THRESHOLDS = (50_000, 50, 100)

OpenHarness = Callable[[Path], AbstractAsyncContextManager["AgentHarness"]]


def load() -> OpenHarness:
    """Imports the agent loop and returns `agent_harness`. Takes about a second: belongs in a thread.

    Meanwhile the event loop goes on with stalls of a few milliseconds: the thread gives way often, and no garbage
    collection walks over what is being imported. Afterwards what was imported is exempt from collections for good.
    """
    for variable in _TRACING_TO_OTHERS:
        os.environ[variable] = "false"
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_BRISK_SWITCH_SECONDS)
    gc.disable()
    try:
        from runner_service.agent.harness import agent_harness, warm_up  # noqa: PLC0415  # this is what takes a second

        warm_up()
    finally:
        gc.freeze()  # before it is enabled, or the first collection would walk over all of it
        gc.set_threshold(*_GC_THRESHOLDS)
        gc.enable()
        sys.setswitchinterval(interval)
    return agent_harness


class AgentLoading:
    """The agent loop, now or in a moment. Construct it with `loading_agent_loop`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wanted = asyncio.Event()
        self._leave = asyncio.Event()
        self._loop: asyncio.Future[AgentLoop] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        """Begins to load it."""
        self._wanted.set()

    async def loaded(self) -> AgentLoop:
        """Waits until it is loaded.

        Raises:
            ExecutionEnd: it could not be loaded; the service's log says why.
        """
        self.begin()
        return await self.once_loaded()

    async def once_loaded(self) -> AgentLoop:
        """Waits until somebody has had it loaded. Raises ExecutionEnd."""
        return await asyncio.shield(self._loop)

    async def hold(self) -> None:
        """Loads it when wanted, and keeps it open until `leave`."""
        await self._wanted.wait()
        if self._leave.is_set():
            return
        try:
            open_harness = await asyncio.to_thread(load)
            async with open_harness(self._settings.state_dir) as loop:
                self._loop.set_result(loop)
                await self._leave.wait()
        except (sqlite3.Error, OSError) as error:
            logger.exception("checkpoints_unusable")
            self._fail(
                LogUnavailableEnd(
                    f"checkpoints.db in STATE_DIR {self._settings.state_dir} cannot be used: {error}; to begin without "
                    "the conversations so far, move it away and start the service again"
                )
            )
        except Exception as error:  # whatever it is, executions are to end with it rather than wait for ever
            logger.exception("agent_loop_failed")
            self._fail(ExecutionEnd(f"the agent loop cannot be loaded: {type(error).__name__}"))

    def _fail(self, end: ExecutionEnd) -> None:
        if not self._loop.done():
            self._loop.set_exception(end)
            self._loop.exception()

    def leave(self) -> None:
        """Lets go of it."""
        self._leave.set()
        self._wanted.set()


@asynccontextmanager
async def loading_agent_loop(settings: Settings) -> AsyncIterator[AgentLoading]:
    """Holds the agent loop, loaded from `begin` on or when first asked for."""
    loading = AgentLoading(settings)
    holding = asyncio.create_task(loading.hold(), name="agent-loop")
    try:
        yield loading
    finally:
        loading.leave()
        await asyncio.wait([holding])
