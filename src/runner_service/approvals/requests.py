"""The requests for approval of one execution, and the decisions about them. The event log is their only storage."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from runner_service.approvals.policy import Approver
from runner_service.errors import AbortedError, FieldViolation, InvalidRequestError, NotFoundError, PreconditionError
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

SUBMITTED_ACTIONS = frozenset(
    {event_pb2.APPROVAL_ACTION_APPROVE, event_pb2.APPROVAL_ACTION_SKIP, event_pb2.APPROVAL_ACTION_REJECT}
)
"""What a person may decide."""

APPROVED_ACTIONS = frozenset({event_pb2.APPROVAL_ACTION_APPROVE, event_pb2.APPROVAL_ACTION_GRANTED})
"""With one of these the call runs."""


@dataclass(frozen=True)
class Asked:
    """A request for approval, as it stands in the log."""

    request: event_pb2.ApprovalRequested
    sub_agent_id: str
    create_time: Timestamp


class Approvals:
    """What was asked and decided, kept up to date from the events of the execution. Belongs to the event loop.

    `publish` appends an event to the execution's stream, `on_change` hears how many requests are pending, right after
    each event, so that event and count reach the log in one commit.
    """

    def __init__(self, publish: Callable[..., object], on_change: Callable[[int], None]) -> None:
        self.approver = Approver()
        self._publish = publish
        self._on_change = on_change
        self._asked: dict[str, Asked] = {}
        self._decided: dict[str, event_pb2.ApprovalDecided] = {}
        self._waiters: dict[str, asyncio.Future[event_pb2.ApprovalDecided]] = {}
        self._undelivered: set[str] = set()

    def take_undelivered(self) -> bool:
        """Tells, once, whether a call was decided while it did not wait in this process, and has not looked again."""
        undelivered, self._undelivered = self._undelivered, set()
        return bool(undelivered)

    @property
    def pending(self) -> Sequence[Asked]:
        """The requests without a decision, in order."""
        return [each for call_id, each in self._asked.items() if call_id not in self._decided]

    @property
    def call_ids(self) -> set[str]:
        """The tool calls that were asked about."""
        return set(self._asked)

    @property
    def decided_call_ids(self) -> set[str]:
        """The tool calls whose newest request is decided."""
        return set(self._decided)

    @property
    def granted_rules(self) -> list[policy_pb2.ApprovalRule]:
        """The rules that decisions of this execution have added."""
        return [rule for each in self._decided.values() for rule in each.granted_rules]

    @property
    def session_rules(self) -> list[policy_pb2.ApprovalRule]:
        """Those of them that hold for the session."""
        decided = [each for each in self._decided.values() if each.grant == policy_pb2.APPROVAL_GRANT_SESSION]
        return [rule for each in decided for rule in each.granted_rules]

    def asked(self, tool_call_id: str) -> Asked | None:
        """Returns the newest request for a call."""
        return self._asked.get(tool_call_id)

    def decision(self, tool_call_id: str) -> event_pb2.ApprovalDecided | None:
        """Returns the decision about the newest request for a call."""
        return self._decided.get(tool_call_id)

    def restore(self, events: Sequence[event_pb2.ExecutionEvent]) -> None:
        """Takes over what an earlier process has published, unless that, or more, is known already."""
        if not self._asked:
            for event in events:
                self._apply_event(event)

    def _apply_event(self, event: event_pb2.ExecutionEvent) -> None:
        if event.HasField("approval_requested"):
            asked = Asked(event.approval_requested, event.sub_agent_id, event.create_time)
            self._asked[asked.request.tool_call_id] = asked
            self._decided.pop(asked.request.tool_call_id, None)
        elif event.HasField("approval_decided"):
            self._decided[event.approval_decided.tool_call_id] = event.approval_decided

    def ask(self, request: event_pb2.ApprovalRequested, sub_agent_id: str) -> None:
        """Publishes a request; its generation is one more than that of the request before for the same call."""
        before = self._asked.get(request.tool_call_id)
        request.generation = before.request.generation + 1 if before else 1
        now = Timestamp()
        now.GetCurrentTime()
        self._asked[request.tool_call_id] = Asked(request, sub_agent_id, now)
        self._decided.pop(request.tool_call_id, None)
        self._publish_event(request, sub_agent_id)

    def decide(self, decided: event_pb2.ApprovalDecided) -> None:
        """Publishes a decision about the newest request for a call, and wakes the call if it waits in this process."""
        asked = self._asked[decided.tool_call_id]
        decided.generation = asked.request.generation
        self._decided[decided.tool_call_id] = decided
        self.approver.granted.extend(decided.granted_rules)
        self._publish_event(decided, asked.sub_agent_id)
        if (waiter := self._waiters.get(decided.tool_call_id)) and not waiter.done():
            waiter.set_result(decided)
        else:
            self._undelivered.add(decided.tool_call_id)

    def withdraw(self) -> None:
        """Publishes, for what is pending, that the execution ended before a decision."""
        for asked in self.pending:
            self.decide(_decided(asked, event_pb2.APPROVAL_ACTION_WITHDRAWN))

    def expire(self, tool_call_id: str) -> None:
        """Publishes that nobody decided in time."""
        self.decide(_decided(self._asked[tool_call_id], event_pb2.APPROVAL_ACTION_EXPIRED))

    async def wait(self, tool_call_id: str, timeout_seconds: float) -> event_pb2.ApprovalDecided | None:
        """Waits for the decision about a call; returns None if there is none within the timeout."""
        self._undelivered.discard(tool_call_id)
        if decided := self._decided.get(tool_call_id):
            return decided
        waiter: asyncio.Future[event_pb2.ApprovalDecided] = asyncio.get_running_loop().create_future()
        self._waiters[tool_call_id] = waiter
        try:
            async with asyncio.timeout(timeout_seconds):
                return await waiter
        except TimeoutError:
            return self._decided.get(tool_call_id)
        finally:
            self._waiters.pop(tool_call_id, None)

    def submit(self, submitted: runner_pb2.SubmitApprovalRequest, redact: Callable[[Any], Any]) -> None:
        """Takes a person's decision. The same again changes nothing.

        Raises:
            CallError: NOT_FOUND, ABORTED, FAILED_PRECONDITION or INVALID_ARGUMENT, as SubmitApproval's contract says.
        """
        asked = self._asked.get(submitted.tool_call_id)
        if asked is None:
            raise NotFoundError(f"tool call {submitted.tool_call_id} of this execution was never asked about")
        newest = asked.request.generation
        if submitted.generation not in (0, newest):
            raise AbortedError(
                f"generation {submitted.generation} of tool call {submitted.tool_call_id} was replaced by {newest}: "
                "look at the newest request, then decide"
            )
        decided = _decision(asked, submitted, redact)
        if before := self._decided.get(submitted.tool_call_id):
            decided.generation = before.generation
            if before != decided:
                raise PreconditionError(_already_decided(before))
            return
        self.decide(decided)
        self._apply_grants()

    def _apply_grants(self) -> None:
        """Approves what is pending and covered by the rules that were just granted."""
        for asked in self.pending:
            suggested = list(asked.request.suggested_rules)
            if suggested and all(rule in self.approver.granted for rule in suggested):
                self.decide(_decided(asked, event_pb2.APPROVAL_ACTION_GRANTED))

    def _publish_event(self, event: Message, sub_agent_id: str) -> None:
        self._publish(event, sub_agent_id=sub_agent_id)
        self._on_change(len(self.pending))


def _decision(
    asked: Asked, submitted: runner_pb2.SubmitApprovalRequest, redact: Callable[[Any], Any]
) -> event_pb2.ApprovalDecided:
    decided = _decided(asked, submitted.action)
    decided.comment = redact(submitted.comment)
    decided.decided_by = redact(submitted.decided_by)
    if submitted.HasField("arguments"):
        decided.arguments.CopyFrom(_arguments(submitted.arguments, redact))
    if submitted.grant:
        unknown = [rule for rule in submitted.granted_rules if rule not in asked.request.suggested_rules]
        if unknown or not submitted.granted_rules:
            raise InvalidRequestError(
                [FieldViolation("granted_rules", "must be rules from suggested_rules of the request, at least one")]
            )
        decided.grant = submitted.grant
        decided.granted_rules.extend(submitted.granted_rules)
    return decided


def _arguments(arguments: Struct, redact: Callable[[Any], Any]) -> Struct:
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415  # rare

    values = MessageToDict(arguments)
    if redact(values) != values:
        raise InvalidRequestError(
            [FieldViolation("arguments", "must not contain a secret: name the variable that holds it instead")]
        )
    return arguments


def _decided(asked: Asked, action: "event_pb2.ApprovalAction.ValueType") -> event_pb2.ApprovalDecided:
    return event_pb2.ApprovalDecided(
        tool_call_id=asked.request.tool_call_id, generation=asked.request.generation, action=action
    )


def _already_decided(decided: event_pb2.ApprovalDecided) -> str:
    action = event_pb2.ApprovalAction.Name(decided.action).removeprefix("APPROVAL_ACTION_")
    by = f" by {decided.decided_by}" if decided.decided_by else ""
    comment = f": {decided.comment}" if decided.comment else ""
    return f"tool call {decided.tool_call_id} was already decided{by}, {action}{comment}; that decision counts"
