"""A service under attack, and the probes that it must answer meanwhile."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.running import Event, ServiceProcess, StartProcess, Turns, command, start, start_process, stdout_of, turn
from tests.scraping import metrics_url, scrape

from runner_service.v1 import agent_runner_pb2 as runner_pb2

__all__ = ["start", "start_process"]

PROBE_TIMEOUT_SECONDS = 10
BEGIN_TIMEOUT_SECONDS = 90  # to lay out files, for which the service is not to blame
END_TIMEOUT_SECONDS = 30
_LAG, _MAX_LAG_SECONDS = "runner_loop_lag_seconds", 5.0

ATTACKING = [turn("", command('eval "${ATTACK-:}"'))]
"""All executions play the same turns; only the one that is given an attack attacks."""


def attacking(text: str, environment: Mapping[str, runner_pb2.EnvironmentValue] = {}, **fields: Any) -> dict[str, Any]:
    """The fields of a request that attacks by a command."""
    return {"environment": {"ATTACK": runner_pb2.EnvironmentValue(value=text), **environment}, **fields}


class Target:
    """A service with an execution that means harm. All executions play the same turns.

    The first turn runs what the request has in `PREPARE`: the attacker lays out files, others do nothing.
    """

    def __init__(
        self,
        service: ServiceProcess,
        attacker: "asyncio.Task[list[Event]]",
        metrics_url: str,
        others: Mapping[str, Any],
    ) -> None:
        self.service = service
        self._others = others
        self._metrics_url = metrics_url
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
            # With the second turn it would attack too.
            limits = runner_pb2.ExecutionLimits(max_model_calls=1)
            fields = _fields(f"bystander-{next(self._numbers)}", "echo unharmed", limits=limits, **self._others)
            assert stdout_of(await self.service.client.execute(**fields)) == b"unharmed\n"

    async def was_on_time(self) -> None:
        """Fails if the service's own clock saw its event loop held up for long at any time."""
        seen = await scrape(self._metrics_url)
        late = seen.value(f"{_LAG}_count") - seen.value(f"{_LAG}_bucket", le=str(_MAX_LAG_SECONDS))
        assert late == 0, f"the event loop was late by more than {_MAX_LAG_SECONDS} s"

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
def attack(start_process: StartProcess, tmp_path: Path) -> Attack:
    """Starts a service and an execution that attacks it; in the end SIGTERM must be obeyed.

    `until` counts the events after which the attack is on, of which there must be two; `others` are the fields of the
    requests of bystanders.
    """

    @asynccontextmanager
    async def attacked(
        turns: Turns,
        prepare: str = ":",
        *,
        until: Callable[[Event], int] = lambda event: event.HasField("tool_call_started"),
        fields: Mapping[str, Any] | None = None,
        others: Mapping[str, Any] | None = None,
        **variables: str,
    ) -> AsyncIterator[Target]:
        script = [turn("", command('bash -c "$PREPARE"')), *turns, turn("Done.")]
        service = await start_process(script, SANDBOX_SCOPE="session", METRICS_ADDRESS="127.0.0.1:0", **variables)
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
        await asyncio.wait_for(begun.wait(), BEGIN_TIMEOUT_SECONDS)
        target = Target(service, task, metrics_url(tmp_path / "state"), others or {})
        yield target
        await target.was_on_time()
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 0
        await task

    return attacked
