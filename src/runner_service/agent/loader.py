"""Imports the agent loop, which takes a second, in a background thread once the service is serving."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from runner_service.agent.interface import AgentLoop
from runner_service.agent.stand_ins import stand_ins
from runner_service.errors import ExecutionEnd, LogUnavailableEnd
from runner_service.importing import large_import
from runner_service.storage.backend import Storage
from runner_service.storage.checkpoints import OpenCheckpoints
from runner_service.storage.event_log import LogError

if TYPE_CHECKING:
    from runner_service.agent.harness import AgentHarness

logger = logging.getLogger(__name__)

_TRACING_TO_OTHERS = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")
"""Variables that make LangChain send prompts to LangSmith."""

_COMMAND_LINE = "httpx._main"
"""The command line of httpx, which does without where it cannot be imported: rich and pygments are 4 MB."""

LOADER_THREAD = "agent-loop-loader"
"""The name of a thread that may still be importing when everything else has ended."""

OpenHarness = Callable[[Storage, OpenCheckpoints], AbstractAsyncContextManager["AgentHarness"]]
OpenLoop = Callable[[], AbstractAsyncContextManager["AgentHarness"]]


@cache
def load() -> OpenHarness:
    """Imports the agent loop and returns `agent_harness`. Blocks for a second: call it in a thread."""
    for variable in _TRACING_TO_OTHERS:
        os.environ[variable] = "false"
    with large_import(), stand_ins(), _absent(_COMMAND_LINE):
        from runner_service.agent.harness import agent_harness, warm_up  # noqa: PLC0415  # this is what takes a second

        warm_up()
    return agent_harness


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Makes the import of a module fail inside the block, unless it is imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # this is how an import is made to fail
    try:
        yield
    finally:
        del sys.modules[module]


def _load_in_daemon_thread(storage: Storage) -> asyncio.Future[OpenLoop]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[OpenLoop] = loop.create_future()

    def resolve(result: OpenLoop | Exception) -> None:
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    def run() -> None:
        result: OpenLoop | Exception
        try:
            result = partial(load(), storage, storage.load_checkpoints())
        except Exception as error:  # noqa: BLE001  # whoever awaits the future gets it
            result = error
        with suppress(RuntimeError):  # the event loop has closed meanwhile
            loop.call_soon_threadsafe(resolve, result)

    threading.Thread(target=run, name=LOADER_THREAD, daemon=True).start()
    return future


class LazyAgentLoop:
    """Loads the agent loop on demand. Constructed by `loading_agent_loop`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._requested = asyncio.Event()
        self._closing = asyncio.Event()
        self._loop: asyncio.Future[AgentLoop] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Starts loading."""
        self._requested.set()

    async def loaded(self) -> AgentLoop:
        """Loads it if necessary, and returns it.

        Raises:
            ExecutionEnd: loading failed; the service's log says why.
        """
        self.start()
        return await self.once_loaded()

    async def once_loaded(self) -> AgentLoop:
        """Returns it once another caller has loaded it. Raises ExecutionEnd."""
        return self._loop.result() if self._loop.done() else await asyncio.shield(self._loop)

    async def run(self) -> None:
        """Loads it when requested, and keeps it open until `close`."""
        await self._requested.wait()
        if self._closing.is_set():
            return
        try:
            open_harness = await self._loaded_unless_closing()
            if open_harness is None:
                return
            async with open_harness() as loop:
                self._loop.set_result(loop)
                await self._closing.wait()
        except LogError as error:
            logger.exception("checkpoints_unusable")
            self._fail(LogUnavailableEnd(error.message))
        except Exception as error:  # executions fail with it instead of waiting forever
            logger.exception("agent_loop_failed")
            self._fail(ExecutionEnd(f"the agent loop cannot be loaded: {type(error).__name__}"))

    async def _loaded_unless_closing(self) -> OpenLoop | None:
        """Loads in a thread that is abandoned when the service stops meanwhile: an import cannot be cancelled."""
        loading = _load_in_daemon_thread(self._storage)
        closing = asyncio.create_task(self._closing.wait(), name="agent-loop-closing")
        waiting: set[asyncio.Future[Any]] = {loading, closing}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        return None if self._closing.is_set() else loading.result()

    def _fail(self, end: ExecutionEnd) -> None:
        if not self._loop.done():
            self._loop.set_exception(end)
            self._loop.exception()

    def close(self) -> None:
        """Lets `run` end."""
        self._closing.set()
        self._requested.set()


@asynccontextmanager
async def loading_agent_loop(storage: Storage) -> AsyncIterator[LazyAgentLoop]:
    """Opens the agent loop, loaded by `start` or when first requested."""
    loading = LazyAgentLoop(storage)
    task = asyncio.create_task(loading.run(), name="agent-loop")
    try:
        yield loading
    finally:
        loading.close()
        await asyncio.wait([task])
