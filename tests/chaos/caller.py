"""A caller that reattaches after every disconnect, decides what it is asked, and fails on duplicates or gaps."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import grpc
from tests.chaos.services import MARK
from tests.running import Event

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_ASKING_MODES = (
    policy_pb2.APPROVAL_MODE_ALLOW,
    policy_pb2.APPROVAL_MODE_ASK_COMMANDS,
    policy_pb2.APPROVAL_MODE_ASK_EFFECTS,
)
_REJECTED_EFFECTS = ("left", "besides")
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
            approval_policy=policy_pb2.ApprovalPolicy(mode=choices.choice(_ASKING_MODES)),
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
        deciding = [asyncio.create_task(self._decide(stub, each)) for each in self._undecided()]
        try:
            async for response in stub.ExecuteAgent(self._next_request()):
                for event in response.events:
                    self._add(event)
                    on_event(event)
                    if event.HasField("approval_requested"):
                        deciding.append(asyncio.create_task(self._decide(stub, event.approval_requested)))
        except grpc.aio.AioRpcError as error:
            assert error.code() in _BREAKS, f"{self.name}: {error.code()} {error.details()}"  # noqa: PT017  # a break is fine
        else:
            assert self.is_finished, f"{self.name}: the stream ended without the end of the execution"
        finally:
            await asyncio.gather(*deciding)

    async def replay(self, stub: Any) -> list[Event]:
        """Reads all events again."""
        request = runner_pb2.WatchExecutionRequest(execution_id=self.name)
        return [event async for response in stub.WatchExecution(request) for event in response.events]

    def _undecided(self) -> list[event_pb2.ApprovalRequested]:
        asked: dict[str, event_pb2.ApprovalRequested] = {}
        for event in self.events:
            if event.HasField("approval_requested"):
                asked[event.approval_requested.tool_call_id] = event.approval_requested
            elif event.HasField("approval_decided"):
                asked.pop(event.approval_decided.tool_call_id, None)
        return list(asked.values())

    async def _decide(self, stub: Any, asked: event_pb2.ApprovalRequested) -> None:
        """Decides, sometimes twice; what a break has left undecided is decided after the next attaching."""
        request = runner_pb2.SubmitApprovalRequest(
            execution_id=self.name,
            tool_call_id=asked.tool_call_id,
            generation=asked.generation,
            action=expected_action(asked),
        )
        await asyncio.sleep(self._choices.choice((0.0, 0.0, self._choices.expovariate(1 / 0.05))))
        try:
            for _ in range(self._choices.choice((1, 1, 2))):
                await stub.SubmitApproval(request)
        except grpc.aio.AioRpcError as error:
            # ABORTED: the file has changed since, and the call was asked about again.
            fine = {*_BREAKS, grpc.StatusCode.ABORTED}
            assert error.code() in fine, f"{self.name}: {error.code()} {error.details()}"  # noqa: PT017  # as above

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


def expected_action(asked: event_pb2.ApprovalRequested) -> "event_pb2.ApprovalAction.ValueType":
    """Returns how a call is decided, in every process the same."""
    text = str(asked.arguments["command"]) if asked.name == "execute" else ""
    is_rejected = any(f" {each}'" in text for each in _REJECTED_EFFECTS)
    return event_pb2.APPROVAL_ACTION_REJECT if is_rejected else event_pb2.APPROVAL_ACTION_APPROVE
