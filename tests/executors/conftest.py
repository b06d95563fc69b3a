import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop
from tests.executors.daytona.executors import emulated, real

from runner_service.executors.confinement import Confinement, NetworkLevel
from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import ConfinementError, Executor, Sandbox, SandboxSpec
from runner_service.executors.supervisor import kernel
from runner_service.executors.supervisor.restrict import ABI_WITH_SCOPES


@asynccontextmanager
async def opened_locally(directory: Path) -> AsyncIterator[Executor]:
    async with local_executor(root=directory / "root", state_dir=directory / "state") as executor:
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


REFUSED = """#!/bin/sh
[ "$1" = --version ] && echo "bubblewrap 0.8.0" && exit
echo "bwrap: No permissions to create new namespace" >&2
exit 1
"""


@asynccontextmanager
async def opened_in_a_thread(directory: Path) -> AsyncIterator[Executor]:
    """Where bubblewrap may make no namespaces. THREAD_NETWORK=none in the environment tries it without sockets."""
    if kernel.landlock_abi() < ABI_WITH_SCOPES:
        pytest.skip("needs Landlock 6 (Linux 6.12)")
    outside = directory / "outside"  # which tests make by a command
    outside.mkdir()
    network: NetworkLevel = "none" if os.environ.get("THREAD_NETWORK") == "none" else "all"
    level = Confinement(files="workspace", network=network, writable_paths=(str(outside),))
    programs = directory / "programs"
    programs.mkdir()
    (programs / "bwrap").write_text(REFUSED)
    (programs / "bwrap").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        async with opened_locally(directory) as executor:
            try:
                found = await executor.confinement_for(level)
            except ConfinementError as error:  # a socket of docker is writable
                pytest.skip(str(error))
            assert found is not None
            assert found.mechanism.startswith("landlock")
            yield ConfinedExecutor(executor, level)  # type: ignore[misc]  # delegates the rest


Open = Callable[[Path], AbstractAsyncContextManager[Executor]]

EXECUTORS: Mapping[str, Open] = {
    "local": opened_locally,
    "cell": opened_in_a_cell,
    "thread": opened_in_a_thread,
    "daytona": emulated,
}
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
    unwanted = ["[asyncio-daytona", "[asyncio-real-daytona", "[asyncio-cell", "[asyncio-thread"]
    if "real_daytona" not in config.getoption("-m"):
        unwanted.append("real-daytona")
    items[:] = [item for item in items if not any(each in item.name for each in unwanted)]


LONG = {"daytona", "thread"}
"""In the emulator a call takes a second, since it starts a Python for each; what a thread does, a cell does too."""


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
