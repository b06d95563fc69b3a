"""A caller that reattaches after every disconnect, and fails on duplicates or gaps."""

from collections.abc import Callable
from random import Random
from typing import Any

import grpc
from tests.chaos.services import MARK
from tests.running import Event

from runner_service.v1 import agent_runner_pb2 as runner_pb2

_BREAKS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


class Caller:
    """Starts one execution and follows it to its end, across restarts of the service."""

    def __init__(self, name: str, mark: str, choices: Random, *, session: str = "") -> None:
        self.name = name
        self.session = session
        self.events: list[Event] = []
        self.has_called = False
        self._choices = choices
        self._request = runner_pb2.ExecuteAgentRequest(
            execution_id=name,
            session_id=session,
            agent=runner_pb2.Agent(name="storm", instructions="Go through it."),
            message=name,
            environment={MARK: runner_pb2.EnvironmentValue(value=mark)},
            disconnect_policy=choices.choice((0, runner_pb2.DISCONNECT_POLICY_DETACH)),  # type: ignore[arg-type]  # both are policies
        )

    @property
    def is_finished(self) -> bool:
        """True once `finished` has been received."""
        return bool(self.events) and self.events[-1].HasField("finished")

    @property
    def is_known(self) -> bool:
        """True once an event has been received: the execution is in the log."""
        return bool(self.events)

    async def follow(self, stub: Any, on_event: Callable[[Event], None]) -> None:
        """Receives events until the end or a disconnect; calls `on_event` with each."""
        self.has_called = True
        try:
            async for response in stub.ExecuteAgent(self._next_request()):
                for event in response.events:
                    self._add(event)
                    on_event(event)
        except grpc.aio.AioRpcError as error:
            assert error.code() in _BREAKS, f"{self.name}: {error.code()} {error.details()}"  # noqa: PT017  # a break is fine
        else:
            assert self.is_finished, f"{self.name}: the stream ended without the end of the execution"

    async def replay(self, stub: Any) -> list[Event]:
        """Reads all events again."""
        request = runner_pb2.WatchExecutionRequest(execution_id=self.name)
        return [event async for response in stub.WatchExecution(request) for event in response.events]

    def _next_request(self) -> runner_pb2.ExecuteAgentRequest:
        request = runner_pb2.ExecuteAgentRequest(execution_id=self.name)
        if not self.is_known or self._choices.random() < 0.5:
            request.CopyFrom(self._request)
        request.after_sequence = len(self.events)
        return request

    def _add(self, event: Event) -> None:
        assert event.sequence == len(self.events) + 1, f"{self.name}: {event.sequence} after {len(self.events)}"
        assert not self.is_finished, f"{self.name}: something came after the end"
        self.events.append(event)
