"""The lives of a service: started on the same state again and again, as a process of its own each time."""

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
from tests.chaos.story import SCRIPT

from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc

MARK = "CHAOS_MARK"
"""The variable by which the processes of a storm are known: supervisors and commands."""

_STARTS_WITHIN = 30.0
_ENDS_WITHIN = 15.0


class Life:
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
        """Kills it, and those that would end what it leaves."""
        with contextlib.suppress(psutil.NoSuchProcess):
            service = psutil.Process(self.pid)
            children = service.children()
            for each in children:
                each.suspend()  # or it would be at it before it dies, or the service notice that it is gone
            for each in (service, *children):
                each.kill()

    async def ready(self) -> str:
        """Waits until it serves, and returns its address."""
        async with asyncio.timeout(_STARTS_WITHIN):
            while not (text := self._announced()):
                assert psutil.pid_exists(self.pid), "the service did not start"
                await asyncio.sleep(0.005)
        return str(json.loads(text)["address"])

    async def ended(self) -> None:
        """Waits until it is gone."""
        async with asyncio.timeout(_ENDS_WITHIN):
            while psutil.pid_exists(self.pid):
                await asyncio.sleep(0.002)

    def _announced(self) -> str:
        try:
            text = self._ready_file.read_text()
        except FileNotFoundError:
            return ""
        return text if text.endswith("\n") else ""


class Lives:
    """Starts services on the state below a directory. Open it with `lives`."""

    def __init__(self, directory: Path, zygote: asyncio.subprocess.Process) -> None:
        self._directory = directory
        self._zygote = zygote
        self._count = 0
        self._life: Life | None = None
        self.mark = f"{os.getpid()}-{directory.name}"
        self.state = directory / "state"
        self.workspace = directory / "workspace"
        self.log = directory / "service.log"
        (directory / "script.yaml").write_text(yaml.safe_dump(dict(SCRIPT)))

    async def start(self, **variables: str) -> Life:
        """Starts the next one."""
        self._count += 1
        ready_file = self._directory / f"ready-{self._count}"
        order = {"environ": self._environ(variables), "ready_file": str(ready_file), "log": str(self.log)}
        assert self._zygote.stdin
        assert self._zygote.stdout
        self._zygote.stdin.write(json.dumps(order).encode() + b"\n")
        self._life = Life(int(await self._zygote.stdout.readline()), ready_file)
        return self._life

    def end(self) -> None:
        """Kills whatever is there."""
        if self._life:
            self._life.signal(signal.SIGKILL)
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Every process of the storm that lives, but for the service itself."""
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
async def lives(directory: Path) -> AsyncIterator[Lives]:
    """Opens what services are started from; whatever is left in the end is killed."""
    zygote = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("zygote.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    every = Lives(directory, zygote)
    try:
        yield every
    finally:
        every.end()
        assert zygote.stdin
        zygote.stdin.close()
        await zygote.wait()


@asynccontextmanager
async def stub_of(address: str) -> AsyncIterator["runner_grpc.AgentRunnerServiceAsyncStub"]:
    """Opens a client of a service."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield runner_grpc.AgentRunnerServiceStub(channel)
