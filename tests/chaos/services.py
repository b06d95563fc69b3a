"""Service processes that are started one after another on the same state directory."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import psutil
import yaml
from tests.chaos.scenario import SCRIPT

from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc

MARK = "CHAOS_MARK"
"""The environment variable that marks the processes of a storm: supervisors and commands."""

_START_TIMEOUT_SECONDS = 30.0
_EXIT_TIMEOUT_SECONDS = 15.0


class Service:
    """One process of the service."""

    def __init__(self, pid: int, ready_file: Path) -> None:
        self.pid = pid
        self.began = psutil.Process(pid).create_time()
        self._ready_file = ready_file

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill_with_supervisor(self) -> None:
        """Kills it together with its supervisor, which would otherwise end its commands."""
        with contextlib.suppress(psutil.NoSuchProcess):
            service = psutil.Process(self.pid)
            children = service.children()
            for each in children:
                each.suspend()  # or one of them would react to the death of the other
            for each in (service, *children):
                each.kill()

    async def ready(self) -> str:
        """Waits until it serves, and returns its address."""
        async with asyncio.timeout(_START_TIMEOUT_SECONDS):
            while not (text := self._announced()):
                assert psutil.pid_exists(self.pid), "the service did not start"
                await asyncio.sleep(0.005)
        return str(json.loads(text)["address"])

    async def ended(self) -> None:
        """Waits until it is gone."""
        async with asyncio.timeout(_EXIT_TIMEOUT_SECONDS):
            while psutil.pid_exists(self.pid):
                await asyncio.sleep(0.002)

    def _announced(self) -> str:
        try:
            text = self._ready_file.read_text()
        except FileNotFoundError:
            return ""
        return text if text.endswith("\n") else ""


class Services:
    """Starts services on the state below a directory. Open it with `running_services`."""

    def __init__(self, directory: Path, fork_server: asyncio.subprocess.Process) -> None:
        self._directory = directory
        self._fork_server = fork_server
        self._count = 0
        self._service: Service | None = None
        self.mark = f"{os.getpid()}-{directory.name}"
        self.state = directory / "state"
        self.workspace = directory / "workspace"
        self.log = directory / "service.log"
        (directory / "script.yaml").write_text(yaml.safe_dump(dict(SCRIPT)))

    async def start(self, **variables: str) -> Service:
        """Starts the next one."""
        self._count += 1
        ready_file = self._directory / f"ready-{self._count}"
        order = {"environ": self._environ(variables), "ready_file": str(ready_file), "log": str(self.log)}
        assert self._fork_server.stdin
        assert self._fork_server.stdout
        self._fork_server.stdin.write(json.dumps(order).encode() + b"\n")
        self._service = Service(int(await self._fork_server.stdout.readline()), ready_file)
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
            MARK: self.mark,
            **variables,
        }


def _mark_of(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARK, "")
    except psutil.Error:
        return ""


@asynccontextmanager
async def running_services(directory: Path) -> AsyncIterator[Services]:
    """Opens the fork server; on exit remaining processes are killed."""
    fork_server = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("fork_server.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    every = Services(directory, fork_server)
    try:
        yield every
    finally:
        every.end()
        assert fork_server.stdin
        fork_server.stdin.close()
        await fork_server.wait()


@asynccontextmanager
async def stub_of(address: str) -> AsyncIterator["runner_grpc.AgentRunnerServiceAsyncStub"]:
    """Opens a client of a service."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield runner_grpc.AgentRunnerServiceStub(channel)
