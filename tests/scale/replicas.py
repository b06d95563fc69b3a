"""Replicas of the service as processes, which share a real Redis and the Daytona emulator; and watchers of them."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from tests.emulator import API_KEY, Cloud
from tests.running import ServiceProcess, StartProcess, Turns
from tests.scale.redis_server import RedisServer

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

Event = event_pb2.ExecutionEvent
ANYTHING = ""
"""Any kind of event."""
DETACHED = runner_pb2.DISCONNECT_POLICY_DETACH

_BREAKS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


class Deployment:
    """Several replicas on one Redis and one cloud."""

    def __init__(self, redis: RedisServer, cloud: Cloud, start_process: StartProcess, directory: Path) -> None:
        self.redis = redis
        self.cloud = cloud
        self._start_process = start_process
        self._directory = directory
        self.replicas: list[ServiceProcess] = []

    async def start(
        self, turns: Turns | Mapping[str, Any] = (), count: int = 1, *, before: Sequence[str] = (), **variables: str
    ) -> None:
        """Starts `count` more replicas, each with a STATE_DIR of its own; by the program `before`, if there is one."""
        block = {
            "MODE": "cloud",
            "DAYTONA_API_KEY": API_KEY,
            "DAYTONA_API_URL": self.cloud.api_url,
            "STIGMER_API_KEY": "stk-key",
            "DRAIN_TIMEOUT": "0",
            **self.redis.variables,
        }
        first = len(self.replicas)
        states = [{"STATE_DIR": str(self._directory / f"state-{number}")} for number in range(first, first + count)]
        self.replicas += await asyncio.gather(*(
            self._start_process(turns, before=before, **{**block, **state, **variables}) for state in states
        ))  # fmt: skip

    def request(self, execution_id: str, **fields: Any) -> runner_pb2.ExecuteAgentRequest:
        """A request for the scripted agent, which runs on when its caller leaves."""
        fields.setdefault("agent", runner_pb2.Agent(name="tester", instructions="Do it."))
        fields.setdefault("disconnect_policy", DETACHED)
        return runner_pb2.ExecuteAgentRequest(message="go", execution_id=execution_id, **fields)

    async def begin(self, replica: int, execution_id: str, until: str = "started", **fields: Any) -> list[Event]:
        """Starts an execution at a replica, and leaves it when an event of that kind has come."""
        call = self.replicas[replica].stub.ExecuteAgent(self.request(execution_id, **fields))
        seen: list[Event] = []
        async for response in call:
            seen += response.events
            if any(until in {ANYTHING, each.WhichOneof("event")} for each in response.events):
                break
        call.cancel()
        return seen

    def watch(self, *order: int, execution_id: str) -> "Watcher":
        """Watches an execution at the first replica of `order` that answers, and at the others when that breaks."""
        return Watcher([self.replicas[each] for each in order], execution_id)

    def watch_anywhere(self, execution_id: str) -> "Watcher":
        """Watches an execution at any replica, those that are started later included."""
        return Watcher(self.replicas, execution_id)

    async def kill(self, replica: int) -> None:
        """Kills a replica (SIGKILL)."""
        await self.replicas[replica].kill()

    def signal(self, replica: int, number: signal.Signals) -> None:
        """Sends a replica a signal."""
        self.replicas[replica].process.send_signal(number)


class Watcher:
    """Collects the events of an execution, across breaks; `task` ends with the stream."""

    def __init__(self, replicas: list[ServiceProcess], execution_id: str) -> None:
        self._replicas = replicas
        self._execution_id = execution_id
        self.events: list[Event] = []
        self.statuses: list[grpc.StatusCode] = []
        self._grown = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def until(self, wanted: Callable[[Event], bool], seconds: float = 40.0) -> Event:
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

    async def _follow(self, replica: ServiceProcess) -> None:
        after = self.events[-1].sequence if self.events else 0
        request = runner_pb2.WatchExecutionRequest(execution_id=self._execution_id, after_sequence=after)
        async for response in replica.stub.WatchExecution(request):
            self.events += response.events
            self._grown.set()

    async def close(self) -> None:
        """Stops watching."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await self.task


def kind(name: str) -> Callable[[Event], bool]:
    """Matches events of a kind."""
    return lambda event: event.WhichOneof("event") == name


def resumed(event: Event) -> bool:
    """Matches the `started` of a replica that has taken over."""
    return event.started.resumed
