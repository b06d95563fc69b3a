"""A service under attack, and the probes that it must answer meanwhile."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.running import Event, ServiceProcess, StartProcess, Turns, command, one, start, start_process, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

__all__ = ["start", "start_process"]

PROBE_TIMEOUT_SECONDS = 10
END_TIMEOUT_SECONDS = 30


class Target:
    """A service with an execution that means harm. All executions play the same turns.

    The first turn runs what the request has in `PREPARE`: the attacker lays out files, others do nothing.
    """

    def __init__(self, service: ServiceProcess, attacker: "asyncio.Task[list[Event]]") -> None:
        self.service = service
        self.attacker = attacker
        self._numbers = count(1)

    async def answers(self) -> None:
        """Fails unless health, liveness and another execution are served while the attack goes on."""
        health: Any = health_pb2_grpc.HealthStub(self.service.channel)
        for name in ("", "liveness"):
            request = health_pb2.HealthCheckRequest(service=name)
            answer = await health.Check(request, timeout=PROBE_TIMEOUT_SECONDS)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
        async with asyncio.timeout(END_TIMEOUT_SECONDS):
            # A new one each time: an id that is known would only replay its events.
            events = await self.service.client.execute(**_fields(f"bystander-{next(self._numbers)}", "echo unharmed"))
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED

    async def cancel(self) -> None:
        """Fails unless the attacker can be cancelled, and ends."""
        request = runner_pb2.CancelExecutionRequest(execution_id="attacker")
        await self.service.stub.CancelExecution(request, timeout=PROBE_TIMEOUT_SECONDS)
        await self.ended()

    async def ended(self) -> list[Event]:
        """Waits for the end of the attack."""
        async with asyncio.timeout(END_TIMEOUT_SECONDS):
            return await self.attacker


def _fields(execution_id: str, prepare: str, **more: Any) -> dict[str, Any]:
    environment = {"PREPARE": runner_pb2.EnvironmentValue(value=prepare), **more.pop("environment", {})}
    return {"execution_id": execution_id, "session_id": f"session-{execution_id}", "environment": environment, **more}


Attack = Callable[..., Any]


@pytest.fixture
def attack(start_process: StartProcess) -> Attack:
    """Starts a service and an execution that attacks it; in the end SIGTERM must be obeyed."""

    @asynccontextmanager
    async def attacked(
        turns: Turns,
        prepare: str = ":",
        *,
        until: Callable[[Event], bool] = lambda event: event.HasField("tool_call_started"),
        fields: Mapping[str, Any] | None = None,
        **variables: str,
    ) -> AsyncIterator[Target]:
        script = [turn("", command('bash -c "$PREPARE"')), *turns, turn("Done.")]
        service = await start_process(script, SANDBOX_SCOPE="session", **variables)
        events: list[Event] = []
        begun = asyncio.Event()

        async def attacking() -> list[Event]:
            request = service.client.request(**_fields("attacker", prepare, **(fields or {})))
            with suppress(grpc.aio.AioRpcError):
                async for response in service.stub.ExecuteAgent(request):
                    events.extend(response.events)
                    if sum(map(until, events)) > 1:
                        begun.set()
            begun.set()
            return events

        task = asyncio.create_task(attacking())
        await asyncio.wait_for(begun.wait(), END_TIMEOUT_SECONDS)
        yield Target(service, task)
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 0
        await task

    return attacked
