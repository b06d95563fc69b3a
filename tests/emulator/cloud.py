"""Sandboxes and what becomes of them."""

import asyncio
import secrets
import shutil
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.emulator.faults import Faults
from tests.emulator.processes import MARK, OURS, guard, kill_all

API_KEY = "dtn_emulated_key"

_CHANGING = {"creating", "starting", "stopping", "pulling_snapshot", "restoring", "archiving"}


class Refused(Exception):  # noqa: N818  # an answer, not a defect
    """A request that is answered with a status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Sandbox:
    """A sandbox: its directories, its state, and the sessions in it."""

    id: str
    name: str
    directory: Path
    parameters: dict[str, Any]
    labels: dict[str, str]
    state: str = "starting"
    activity: int = 0
    sessions: dict[str, Any] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)

    @property
    def work(self) -> Path:
        return self.directory / "work"

    def environment(self) -> dict[str, str]:
        own = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self.directory / "home"), "LANG": "C.UTF-8"}
        own |= {"TMPDIR": str(self.directory / "tmp"), "TERM": "xterm", MARK: self.id, OURS: guard()}
        given: dict[str, str] = self.parameters.get("env", {})
        return own | given


class Cloud:
    """All sandboxes of one organisation.

    `snapshots` are those that it knows, `quota` is how many it may have. New ones have in their TMPDIR what
    is in `image`, as with a snapshot that was made of a sandbox in use.
    """

    def __init__(self, directory: Path, faults: Faults) -> None:
        self.directory = directory
        self.faults = faults
        self.origin = ""
        self.sandboxes: dict[str, Sandbox] = {}
        self.created = 0
        self.image: Path | None = None
        self.snapshots = {"default", "dev-tools"}
        self.quota = 1000
        self.requests: list[str] = []
        self.targets: list[str | None] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def api_url(self) -> str:
        return f"{self.origin}/api"

    def find(self, reference: str) -> Sandbox:
        for sandbox in self.sandboxes.values():
            if reference in (sandbox.id, sandbox.name):
                return sandbox
        raise Refused(404, f"Sandbox with ID or name {reference} not found")

    def running(self, reference: str) -> Sandbox:
        """Returns a sandbox whose toolbox can be reached."""
        sandbox = self.find(reference)
        if sandbox.state != "started":
            raise Refused(404, "sandbox container not found")
        return sandbox

    def create(self, parameters: dict[str, Any]) -> Sandbox:
        name = parameters.get("name") or f"sandbox-{secrets.token_hex(4)}"
        if any(each.name == name for each in self.sandboxes.values()):
            raise Refused(409, f"Sandbox with name {name} already exists")
        if (snapshot := parameters.get("snapshot", "default")) not in self.snapshots:
            raise Refused(404, f"Snapshot {snapshot} not found")
        if len(self.sandboxes) >= self.quota:
            raise Refused(400, "Total CPU limit exceeded. Maximum allowed: 10")
        new = secrets.token_hex(8)
        sandbox = Sandbox(new, name, self.directory / new, parameters, dict(parameters.get("labels", {})))
        for part in ("work", "home", "tmp"):
            (sandbox.directory / part).mkdir(parents=True)
        if self.image:
            shutil.copytree(self.image, sandbox.directory / "tmp", dirs_exist_ok=True)
        self.sandboxes[new] = sandbox
        self.created += 1
        self.targets.append(parameters.get("target"))
        self._begin_start(sandbox)
        return sandbox

    def start(self, sandbox: Sandbox) -> None:
        if sandbox.state in _CHANGING:
            raise Refused(409, "Sandbox state change in progress")
        if sandbox.state not in {"stopped", "archived", "paused"}:
            raise Refused(400, "Sandbox is not in valid state")
        self._begin_start(sandbox)

    async def stop(self, sandbox: Sandbox) -> None:
        """Stops a sandbox, by itself or because somebody asked: its processes end, its files stay."""
        if sandbox.state in _CHANGING:
            raise Refused(409, "Sandbox state change in progress")
        sandbox.state = "stopping"
        await asyncio.sleep(self.faults.stop_seconds)
        await kill_all(sandbox.id)
        sandbox.state = "stopped"
        sandbox.sessions.clear()
        if sandbox.parameters.get("autoDeleteInterval") == 0:
            await self._destroy(sandbox)

    def delete(self, sandbox: Sandbox) -> None:
        if sandbox.state in _CHANGING:
            raise Refused(409, "Sandbox state change in progress")
        if sandbox.state != "destroying":
            sandbox.state = "destroying"
            self._spawn(self._destroy(sandbox))

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for sandbox in list(self.sandboxes.values()):
            await self._destroy(sandbox)

    def described(self, sandbox: Sandbox) -> dict[str, Any]:
        return {
            "id": sandbox.id,
            "organizationId": "organisation",
            "name": sandbox.name,
            "snapshot": sandbox.parameters.get("snapshot", "default"),
            "user": "daytona",
            "env": sandbox.parameters.get("env", {}),
            "labels": sandbox.labels,
            "public": False,
            "networkBlockAll": False,
            "kvm": False,
            "target": sandbox.parameters.get("target", "local"),
            "cpu": 1,
            "gpu": 0,
            "memory": 1,
            "disk": 3,
            "state": sandbox.state,
            "autoStopInterval": sandbox.parameters.get("autoStopInterval", 15),
            "autoDeleteInterval": sandbox.parameters.get("autoDeleteInterval", -1),
            "toolboxProxyUrl": f"{self.origin}/toolbox",
        }

    def _begin_start(self, sandbox: Sandbox) -> None:
        if not self.faults.start_seconds:
            sandbox.state = "started"
            return
        sandbox.state = self.faults.slow_state
        self._spawn(self._start_slowly(sandbox))

    async def _start_slowly(self, sandbox: Sandbox) -> None:
        await asyncio.sleep(self.faults.start_seconds)
        sandbox.state = "started"

    async def _destroy(self, sandbox: Sandbox) -> None:
        sandbox.state = "destroying"
        await kill_all(sandbox.id)
        await asyncio.to_thread(shutil.rmtree, sandbox.directory, ignore_errors=True)
        self.sandboxes.pop(sandbox.id, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


CLOUD = web.AppKey("cloud", Cloud)
