"""Service processes that are started one after another on the same state directory."""

import asyncio
import contextlib
import json
import os
import select
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import psutil
import yaml
from tests.chaos.scenario import SCRIPT
from tests.forking import ForkedProcess, ForkServer

from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc

MARK = "CHAOS_MARK"
"""The environment variable that marks the processes of a storm: supervisors and commands."""

_START_TIMEOUT_SECONDS = 30.0
_EXIT_TIMEOUT_SECONDS = 15.0


class Service:
    """One process of the service, and the read end of the pipe at which it says that it serves."""

    def __init__(self, process: ForkedProcess, announced: int) -> None:
        self.pid = process.pid
        self.began = psutil.Process(process.pid).create_time()
        self._process = process
        self._announced = announced

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def kill_with_supervisor(self) -> None:
        """Kills it together with its supervisor, which would otherwise end its commands."""
        with contextlib.suppress(psutil.NoSuchProcess):
            service = psutil.Process(self.pid)
            children = service.children()
            for each in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.suspend()  # or one of them would react to the death of the other
            for each in (service, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()

    async def ready(self) -> str:
        """Waits until it serves, and returns its address."""
        async with asyncio.timeout(_START_TIMEOUT_SECONDS):
            line = await asyncio.to_thread(os.read, self._announced, select.PIPE_BUF)
        assert line, "the service did not start"
        return str(json.loads(line)["address"])

    async def ended(self) -> None:
        """Waits until it is gone."""
        async with asyncio.timeout(_EXIT_TIMEOUT_SECONDS):
            await self._process.wait()
        os.close(self._announced)


class Services:
    """Starts services on the state below a directory. Open it with `running_services`."""

    def __init__(self, directory: Path, fork_server: ForkServer) -> None:
        self._directory = directory
        self._fork_server = fork_server
        self._service: Service | None = None
        self.mark = f"{os.getpid()}-{directory.name}"
        self.state = directory / "state"
        self.workspace = directory / "workspace"
        self.log = directory / "service.log"
        (directory / "script.yaml").write_text(yaml.safe_dump(dict(SCRIPT)))

    async def start(self, **variables: str) -> Service:
        """Starts the next one."""
        announced, announce = os.pipe()
        with self.log.open("a") as log:
            process = await self._fork_server.fork(
                ["serve", "--ready-fd"], self._environ(variables), announce, stderr=log.fileno()
            )
        os.close(announce)
        self._service = Service(process, announced)
        return self._service

    def end(self) -> None:
        """Kills whatever is there."""
        if self._service:
            self._service.signal(signal.SIGKILL)
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Every process of the storm that runs, except the service itself."""
        return [each for each in psutil.process_iter() if _mark_of(each) == self.mark]

    def _environ(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._directory),
            "MODE": "local",
            "LISTEN_ADDRESS": "127.0.0.1:0",
            "STATE_DIR": str(self.state),
            "SANDBOX_ROOT_DIR": str(self.workspace),
            "STIGMER_LLM_PROVIDER": "scripted",
            "STIGMER_LLM_SCRIPT": str(self._directory / "script.yaml"),
            "KILL_GRACE": "0.2",
            "DRAIN_TIMEOUT": "0",
            "DISCONNECT_GRACE": "60",  # every caller comes back, on a busy machine only late
            MARK: self.mark,
            **variables,
        }


def _mark_of(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARK, "")
    except psutil.Error:
        return ""


@contextmanager
def running_services(directory: Path, fork_server: ForkServer) -> Iterator[Services]:
    """Starts services when asked to; on exit remaining processes are killed."""
    every = Services(directory, fork_server)
    try:
        yield every
    finally:
        every.end()


@asynccontextmanager
async def stub_of(address: str) -> AsyncIterator["runner_grpc.AgentRunnerServiceAsyncStub"]:
    """Opens a client of a service."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield runner_grpc.AgentRunnerServiceStub(channel)
