"""The agent loop comes with a second of imports: they happen in the background, once the service can be called."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runner_service.agent import load
from runner_service.agent_run import AgentLoop
from runner_service.errors import ExecutionEnd, LogUnavailableEnd
from runner_service.settings import Settings

logger = logging.getLogger(__name__)


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
