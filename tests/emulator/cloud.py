"""Sandboxes and what becomes of them."""

import asyncio
import os
import secrets
import shutil
import subprocess
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.emulator.errors import EmptyRefused, Refused, ToolboxRefused
from tests.emulator.faults import Faults
from tests.emulator.processes import MARK, OURS, guard, in_thread, kill_all, started

API_KEY = "dtn_emulated_key"

_CHANGING = {"creating", "starting", "pulling_snapshot", "restoring", "archiving"}
_UNREACHABLE_SECONDS = 0.3


@dataclass
class Sandbox:
    """A sandbox: its directories, its state, and the sessions in it. `activity` counts what postpones its stop."""

    id: str
    name: str
    directory: Path
    parameters: dict[str, Any]
    labels: dict[str, str]
    state: str = "starting"
    activity: int = 0
    sessions: dict[str, Any] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    variables: list[dict[str, str]] = field(default_factory=list)
    """Of each script in `executed`."""
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def work(self) -> Path:
        """The home of the user: the daemon's own files are in it, and its parent cannot be written."""
        return self.directory / "home" / "daytona"

    def environment(self) -> dict[str, str]:
        """Returns the daemon's environment. TMPDIR is ours: it stands for a /tmp of the sandbox's own."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        own = {"PATH": path, "HOME": str(self.work), "LANG": "C.UTF-8", "TERM": "dumb"}
        own |= {"DAYTONA_ORGANIZATION_ID": "organisation", "DAYTONA_REGION_ID": "local", MARK: self.id}
        own |= {"DAYTONA_SANDBOX_SNAPSHOT": self.snapshot, "DAYTONA_SANDBOX_USER": "daytona"}
        given: dict[str, str] = self.parameters.get("env", {})
        return own | {"TMPDIR": str(self.directory / "tmp"), OURS: guard()} | given

    @property
    def snapshot(self) -> str:
        return str(self.parameters.get("snapshot", "default"))

    def make_directories(self, image: Path | None) -> None:
        (self.work / ".daytona").mkdir(parents=True)
        (self.directory / "tmp").mkdir()
        self.work.parent.chmod(0o555)
        if image:
            shutil.copytree(image, self.directory / "tmp", dirs_exist_ok=True)

    def end_sessions(self) -> None:
        for session in self.sessions.values():
            session.close()
        self.sessions.clear()

    def remove_directories(self) -> None:
        with suppress(OSError):
            self.work.parent.chmod(0o755)
        shutil.rmtree(self.directory, ignore_errors=True)


class Cloud:
    """All sandboxes of one organisation.

    `snapshots` are those that it knows, `quota` is how many it may have. New ones have in their TMPDIR what
    is in `image`, as with a snapshot that was made of a sandbox in use. `version` is the server's: one before 0.200
    leaves out of its answers what later SDKs insist on.
    """

    def __init__(self, directory: Path, faults: Faults) -> None:
        self.directory = directory
        self.faults = faults
        self.origin = ""
        self.version = os.environ.get("EMULATED_DAYTONA", "0.226.0")
        self.sandboxes: dict[str, Sandbox] = {}
        self.created = 0
        self.image: Path | None = None
        self.snapshots = {"default", "dev-tools"}
        self.volumes = {"cache": "volume-1"}
        self.quota = 1000
        self.requests: list[str] = []
        self.in_flight: list[str] = []
        self.connections: set[object] = set()
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

    async def reach(self, sandbox_id: str) -> Sandbox:
        """Returns a sandbox whose toolbox can be reached; its state decides how another one is refused."""
        sandbox = self.sandboxes.get(sandbox_id)
        if self.faults.is_api_away and not self.faults.proxy_remembers:
            raise ToolboxRefused(400, "failed to get sandbox public status: connection refused")
        if sandbox is None:
            if self.faults.proxy_remembers:
                raise ToolboxRefused(404, f"sandbox container not found: {sandbox_id}")
            raise ToolboxRefused(401, "authentication failed: Bearer token is invalid")
        if sandbox.state == "started":
            return sandbox
        if sandbox.state in {"stopping", "destroying"}:
            raise EmptyRefused(502)
        if sandbox.state == "archived":
            raise ToolboxRefused(400, f"failed to get runner info: sandbox {sandbox_id} has no runner")
        await asyncio.sleep(_UNREACHABLE_SECONDS)
        why = "failed to resolve container IP after 3 attempts: no IP address found. Is the Sandbox started?"
        raise ToolboxRefused(400, why)

    def create(self, parameters: dict[str, Any]) -> Sandbox:
        name = parameters.get("name") or f"sandbox-{secrets.token_hex(4)}"
        if any(each.name == name for each in self.sandboxes.values()):
            raise Refused(409, f"Sandbox with name {name} already exists")
        if (snapshot := parameters.get("snapshot", "default")) not in self.snapshots:
            raise Refused(400, f"Snapshot {snapshot} not found. Did you add it through the Daytona Dashboard?")
        if len(self.sandboxes) >= self.quota:
            raise Refused(400, "Total CPU limit exceeded. Maximum allowed: 10")
        new = secrets.token_hex(8)
        sandbox = Sandbox(new, name, self.directory / new, parameters, dict(parameters.get("labels", {})))
        sandbox.make_directories(self.image)
        self.sandboxes[new] = sandbox
        self.created += 1
        self.targets.append(parameters.get("target"))
        self._begin_start(sandbox)
        return sandbox

    async def start(self, sandbox: Sandbox) -> None:
        await self._stopped(sandbox)
        if sandbox.state in _CHANGING:
            raise Refused(409, "Sandbox state change in progress")
        if sandbox.state not in {"stopped", "archived", "paused"}:
            raise Refused(400, "Sandbox is not in valid state")
        self._begin_start(sandbox)

    async def stop(self, sandbox: Sandbox) -> None:
        """Stops a sandbox, by itself or because somebody asked: its processes end, its files stay."""
        if sandbox.state in _CHANGING | {"stopping"}:
            raise Refused(409, "Sandbox state change in progress")
        if sandbox.state != "started":
            raise Refused(400, "Sandbox is not in a stoppable state")
        sandbox.state = "stopping"
        await asyncio.sleep(self.faults.stop_seconds)
        await kill_all(sandbox.id)
        sandbox.end_sessions()
        sandbox.state = "stopped"
        if sandbox.parameters.get("autoDeleteInterval") == 0:
            await self._destroy(sandbox)

    async def delete(self, sandbox: Sandbox) -> None:
        await self._stopped(sandbox)
        if sandbox.state in _CHANGING | {"destroying"}:
            raise Refused(409, "Sandbox state change in progress")
        sandbox.state = "destroying"
        self._spawn(self._destroy(sandbox))

    async def close(self) -> None:
        self.quota = 0  # services that still run go on asking for sandboxes
        while self._tasks or self.sandboxes:
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            for sandbox in list(self.sandboxes.values()):
                await self._destroy(sandbox)

    def _begin_start(self, sandbox: Sandbox) -> None:
        if not self.faults.start_seconds:
            self._start_daemon(sandbox)
            return
        sandbox.state = self.faults.slow_state
        self._spawn(self._start_slowly(sandbox))

    async def _start_slowly(self, sandbox: Sandbox) -> None:
        await asyncio.sleep(self.faults.start_seconds)
        self._start_daemon(sandbox)

    def _start_daemon(self, sandbox: Sandbox) -> None:
        """Starts what is always there: the daemon, whose end is the sandbox's, and the worker of its interpreter."""
        sandbox.state = "started"
        script = "bash -c 'exec -a \"$0\" sleep infinity' /tmp/daytona_repl_worker.py & exec -a daytona sleep infinity"
        cwd, environment = str(sandbox.work), sandbox.environment()
        daemon = sandbox.daemon = started("bash", "-c", script, cwd=cwd, env=environment, stderr=subprocess.DEVNULL)
        self._spawn(self._stop_with(daemon, sandbox))

    async def _stop_with(self, daemon: subprocess.Popen[bytes], sandbox: Sandbox) -> None:
        await in_thread(lambda: _wait(daemon))
        if sandbox.daemon is daemon and sandbox.state == "started":
            await self.stop(sandbox)

    async def _stopped(self, sandbox: Sandbox) -> None:
        """Waits out a stop, which a start or a deletion does that comes meanwhile."""
        while sandbox.state == "stopping":
            await asyncio.sleep(0.02)

    async def _destroy(self, sandbox: Sandbox) -> None:
        sandbox.state = "destroying"
        await kill_all(sandbox.id)
        sandbox.end_sessions()
        if daemon := sandbox.daemon:  # `_stop_with` may have been cancelled before it began
            await in_thread(lambda: _wait(daemon))
        await asyncio.to_thread(sandbox.remove_directories)
        self.sandboxes.pop(sandbox.id, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _wait(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.wait()


CLOUD = web.AppKey("cloud", Cloud)
