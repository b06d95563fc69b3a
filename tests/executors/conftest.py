import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop
from tests.executors.daytona.executors import emulated, real

from runner_service.executors.confinement import Confinement
from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import Executor, Sandbox, SandboxSpec


@asynccontextmanager
async def opened_locally(directory: Path) -> AsyncIterator[Executor]:
    async with local_executor(root=directory / "root", state_dir=directory / "state", terminate_grace=0.25) as executor:
        yield executor


@dataclass
class ConfinedExecutor:
    """The local executor, with every execution in a cell."""

    executor: Executor
    level: Confinement

    def __getattr__(self, name: str) -> object:
        return getattr(self.executor, name)

    def open(self, spec: SandboxSpec) -> AbstractAsyncContextManager[Sandbox]:
        return self.executor.open(
            SandboxSpec(
                spec.execution_id,
                spec.session_id,
                spec.environment,
                confinement=self.level,
                notify=spec.notify,
                is_interrupted=spec.is_interrupted,
            )
        )


@asynccontextmanager
async def opened_in_a_cell(directory: Path) -> AsyncIterator[Executor]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    async with opened_locally(directory) as executor:
        yield ConfinedExecutor(executor, Confinement(files="workspace"))  # type: ignore[misc]  # delegates the rest


Open = Callable[[Path], AbstractAsyncContextManager[Executor]]

EXECUTORS: Mapping[str, Open] = {"local": opened_locally, "cell": opened_in_a_cell, "daytona": emulated}
"""Every executor that has to pass the conformance suite: how to open one, given a directory of the test's own."""

ON_BOTH_LOOPS = {"test_commands", "test_input", "test_output"}
"""Where pipes and descriptors meet the loop. The rest is done by threads and by other processes."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    both = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return both if item.path.stem in ON_BOTH_LOOPS else {"uvloop": uvloop.new_event_loop}


REAL: Mapping[str, Open] = {"real-daytona": real}
"""What has to pass it too, and is only tried when asked for, since it costs money."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the second loop for executors whose pipes are elsewhere, and what was not asked for."""
    unwanted = ["[asyncio-daytona", "[asyncio-real-daytona", "[asyncio-cell"]
    if "real_daytona" not in config.getoption("-m"):
        unwanted.append("real-daytona")
    items[:] = [item for item in items if not any(each in item.name for each in unwanted)]


LONG = {"daytona"}
"""A call takes a second in the emulator, which starts a Python for each."""


@pytest.fixture(
    params=[
        *(pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in EXECUTORS),
        *(pytest.param(name, marks=pytest.mark.real_daytona) for name in REAL),
    ]
)
async def executor(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Executor]:
    openings = {**EXECUTORS, **REAL}
    async with openings[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
async def sandbox(executor: Executor) -> AsyncIterator[Sandbox]:
    async with executor.open(SandboxSpec("execution-1", environment={"GIVEN": "by the caller"})) as opened:
        yield opened
