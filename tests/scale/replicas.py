"""Replicas of the service as processes, which share a real Redis and the Daytona emulator; and watchers of them."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.emulator import API_KEY, Cloud
from tests.ports import free_port
from tests.proxies.proxies import program_path
from tests.running import ServiceProcess, StartProcess, Turns
from tests.scale.envoy import running_envoy
from tests.scale.redis_server import RedisServer

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc
from runner_service.v1 import execution_event_pb2 as event_pb2

Event = event_pb2.ExecutionEvent
ANYTHING = ""
"""Any kind of event."""
IS_WHOLE = bool(os.environ.get("SCALE_WHOLE"))
"""Whether tests have the size of the acceptance tests, as in `make chaos`, and not one that suits every run."""
DETACHED = runner_pb2.DISCONNECT_POLICY_DETACH
BEGUN_AND_WAITS = "echo begun | tee begun; until [ -e go ]; do sleep 0.05; done"
"""A command that ends once `let_go` has been called."""

_BREAKS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


class Deployment:
    """Several replicas on one Redis and one cloud."""

    def __init__(self, redis: RedisServer, cloud: Cloud, start_process: StartProcess, directory: Path) -> None:
        self.redis = redis
        self.cloud = cloud
        self._start_process = start_process
        self._directory = directory
        self.replicas: list[ServiceProcess] = []
        self.proxy: Proxy | None = None
        """Envoy, inside `behind_proxy`, where it is installed."""
        self._spare_ports: list[int] = []

    @asynccontextmanager
    async def behind_proxy(self, *, spare: int = 0) -> AsyncIterator[None]:
        """Runs Envoy, where it is installed, in front of the replicas and of `spare` that are started later."""
        if program_path("envoy") is None:
            yield
            return
        self._spare_ports = [free_port() for _ in range(spare)]
        addresses = [*(each.address for each in self.replicas), *(f"127.0.0.1:{port}" for port in self._spare_ports)]
        async with (
            running_envoy(addresses, self._directory) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            self.proxy = Proxy(runner_grpc.AgentRunnerServiceStub(channel))
            yield
            self.proxy = None

    async def start(
        self, turns: Turns | Mapping[str, Any] = (), count: int = 1, *, before: Sequence[str] = (), **variables: str
    ) -> None:
        """Starts `count` more replicas, each with a STATE_DIR of its own; by the program `before`, if there is one.

        They take work when this returns, if there is a Redis: until then what one is given may run at another.
        """
        block = {
            "MODE": "cloud",
            "DAYTONA_API_KEY": API_KEY,
            "DAYTONA_API_URL": self.cloud.api_url,
            "STIGMER_API_KEY": "stk-key",
            "DRAIN_TIMEOUT": "0",
            **self.redis.variables,
        }
        first = len(self.replicas)
        started = await asyncio.gather(*(
            self._start_process(turns, before=before, **{**block, **self._own_variables(number), **variables})
            for number in range(first, first + count)
        ))  # fmt: skip
        if self.redis.is_running:
            await asyncio.gather(*map(_until_it_takes_work, started))
        self.replicas += started

    def other_script(self, turns: Turns) -> str:
        """Returns the script of replicas that play other turns than those that are started with theirs."""
        script = self._directory / "other-script.yaml"
        script.write_text(yaml.safe_dump({"turns": list(turns)}))
        return str(script)

    def _own_variables(self, number: int) -> dict[str, str]:
        own = {"STATE_DIR": str(self._directory / f"state-{number}")}
        if self._spare_ports:
            own["LISTEN_ADDRESS"] = f"127.0.0.1:{self._spare_ports.pop()}"
        return own

    def request(self, execution_id: str, **fields: Any) -> runner_pb2.ExecuteAgentRequest:
        """A request for the scripted agent, which runs on when its caller leaves."""
        fields.setdefault("agent", runner_pb2.Agent(name="tester", instructions="Do it."))
        fields.setdefault("disconnect_policy", DETACHED)
        return runner_pb2.ExecuteAgentRequest(message="go", execution_id=execution_id, **fields)

    async def begin(
        self, replica: int, execution_id: str, until: str = "started", seconds: float = 60, **fields: Any
    ) -> list[Event]:
        """Starts an execution at a replica, and leaves it when an event of that kind, or any, has come."""
        call = self.replicas[replica].stub.ExecuteAgent(self.request(execution_id, **fields))
        seen: list[Event] = []
        async with asyncio.timeout(seconds):
            async for response in call:
                seen += response.events
                if any(until in {ANYTHING, each.WhichOneof("event")} for each in response.events):
                    break
        call.cancel()
        return seen

    async def begin_replicated(
        self, replica: int, execution_id: str, until: str = "started", seconds: float = 60
    ) -> list[Event]:
        """Begins where REDIS_MIN_REPLICAS is set: again, as the error says, if a busy Redis has no copy in time."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    return await self.begin(replica, execution_id, until, seconds)
                except grpc.aio.AioRpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                await asyncio.sleep(0.1)

    async def begin_anywhere(self, execution_id: str, **fields: Any) -> None:
        """Starts an execution at any replica that lives, and leaves it; while replicas die it is tried again."""
        number = 0
        while True:
            living = [at for at, each in enumerate(self.replicas) if each.process.returncode is None]
            try:
                async with asyncio.timeout(5):  # it may be stopped
                    if await self._first_events(living[number % len(living)], execution_id, **fields):
                        return
            except TimeoutError:
                pass
            except grpc.aio.AioRpcError as error:
                if error.code() not in _BREAKS:
                    raise
                await asyncio.sleep(0.1)
            number += 1

    async def _first_events(self, replica: int, execution_id: str, **fields: Any) -> bool:
        call = self.replicas[replica].stub.ExecuteAgent(self.request(execution_id, **fields))
        try:
            async for response in call:
                if response.events:
                    return True
        finally:
            call.cancel()
        return False

    def watch(self, *order: int, execution_id: str) -> "Watcher":
        """Watches an execution at the first replica of `order` that answers, and at the others when that breaks."""
        return Watcher([self.replicas[each] for each in order], execution_id)

    def watch_everywhere(self, execution_id: str) -> "Watchers":
        """Watches an execution at every replica that lives, and through the proxy if there is one."""
        living = [each for each in self.replicas if each.process.returncode is None]
        orders = [[*living[at:], *living[:at]] for at in range(len(living))]
        watchers = [Watcher(order, execution_id) for order in orders]
        if self.proxy:
            watchers.append(Watcher([self.proxy], execution_id))
        return Watchers(watchers)

    def watch_anywhere(self, execution_id: str) -> "Watcher":
        """Watches an execution at any replica, those that are started later included."""
        return Watcher(self.replicas, execution_id)

    async def released(self, execution_id: str) -> None:
        """Waits until no replica owns an execution, a little after its end."""
        async with asyncio.timeout(60):
            with self.redis.client as client:
                while client.hexists(f"rs1:{{{execution_id}}}:x", "owner") or any(
                    client.sismember(each, execution_id) for each in client.scan_iter("rs1:{d:default}:count:own:*")
                ):
                    await asyncio.sleep(0.01)

    def files(self, name: str) -> list[Path]:
        """The files of that name that commands have written to the homes of the sandboxes."""
        # Not by a search: what an attendant deletes meanwhile, in other directories, would end it with an error.
        return [path for each in self.cloud.sandboxes.values() if (path := each.work / name).exists()]

    def let_go(self) -> None:
        """Lets the commands of BEGUN_AND_WAITS end that have begun."""
        for each in self.files("begun"):
            each.with_name("go").touch()

    async def kill(self, replica: int) -> None:
        """Kills a replica (SIGKILL)."""
        await self.replicas[replica].kill()

    def signal(self, replica: int, number: signal.Signals) -> None:
        """Sends a replica a signal."""
        self.replicas[replica].process.send_signal(number)


async def _until_it_takes_work(replica: ServiceProcess) -> None:
    health: Any = health_pb2_grpc.HealthStub(replica.channel)
    async with asyncio.timeout(60):
        while (await health.Check(health_pb2.HealthCheckRequest())).status != health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0.01)


class Watchable(Protocol):
    """A replica, or a proxy before replicas."""

    @property
    def stub(self) -> "runner_grpc.AgentRunnerServiceAsyncStub":
        """What calls it."""


@dataclass
class Proxy:
    """A proxy before replicas."""

    stub: "runner_grpc.AgentRunnerServiceAsyncStub"


class Watcher:
    """Collects the events of an execution, across breaks; `task` ends with the stream."""

    def __init__(self, replicas: Sequence[Watchable], execution_id: str) -> None:
        self._replicas = replicas
        self._execution_id = execution_id
        self.events: list[Event] = []
        self.statuses: list[grpc.StatusCode] = []
        self.longest_pause_seconds = 0.0
        """The longest time without an event, after the first one."""
        self._newest_at = 0.0
        self._grown = asyncio.Event()
        self.task = asyncio.create_task(self._run())
        # A test that waits for no end does not ask how it ended: asyncio would log that in the middle of a later test.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def until(self, wanted: Callable[[Event], bool], seconds: float = 90.0) -> Event:
        """Waits for an event."""
        async with asyncio.timeout(seconds):
            while True:
                for event in self.events:
                    if wanted(event):
                        return event
                self._grown.clear()
                await self._grown.wait()

    async def ended(self, seconds: float = 60.0) -> list[Event]:
        """Waits for the end of the stream, and returns all events, of which none is missing or double."""
        async with asyncio.timeout(seconds):
            await self.task
        assert [each.sequence for each in self.events] == list(range(1, len(self.events) + 1))
        assert self.events[-1].HasField("finished")
        return self.events

    async def _run(self) -> None:
        number = 0
        while True:
            try:
                await self._follow(self._replicas[number % len(self._replicas)])
            except grpc.aio.AioRpcError as error:
                self.statuses.append(error.code())
                if error.code() not in _BREAKS:
                    raise
                number += 1
                await asyncio.sleep(0.05)
            else:
                return

    async def _follow(self, replica: Watchable) -> None:
        after = self.events[-1].sequence if self.events else 0
        request = runner_pb2.WatchExecutionRequest(execution_id=self._execution_id, after_sequence=after)
        metadata = (("x-execution-id", self._execution_id),)
        async for response in replica.stub.WatchExecution(request, metadata=metadata):
            if response.events:
                self._note_pause()
            self.events += response.events
            self._grown.set()

    def _note_pause(self) -> None:
        now = time.monotonic()
        if self.events:
            self.longest_pause_seconds = max(self.longest_pause_seconds, now - self._newest_at)
        self._newest_at = now

    async def close(self) -> None:
        """Stops watching."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await self.task


class Watchers:
    """Several watchers of one execution, which have to see the same."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.each = watchers

    async def until(self, wanted: Callable[[Event], bool], seconds: float = 90.0) -> None:
        """Waits until all have seen an event."""
        for watcher in self.each:
            await watcher.until(wanted, seconds)

    async def ended(self, seconds: float = 60.0) -> list[Event]:
        """Waits for the end of all streams, and returns the events, which are the same for all."""
        seen = await asyncio.gather(*(watcher.ended(seconds) for watcher in self.each))
        assert all(each == seen[0] for each in seen), "two contents under one number"
        return seen[0]


def kind(name: str) -> Callable[[Event], bool]:
    """Matches events of a kind."""
    return lambda event: event.WhichOneof("event") == name


def resumed(event: Event) -> bool:
    """Matches the `started` of a replica that has taken over."""
    return event.started.resumed
