"""Validates the requests about approvals."""

from google.protobuf.json_format import MessageToDict

from runner_service.api.validation.fields import Violations, at_most, identifier
from runner_service.api.validation.requests import MAX_PAGE_SIZE, page_key, raise_if_any, required_identifier
from runner_service.approvals.requests import SUBMITTED_ACTIONS
from runner_service.errors import FieldViolation
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_MAX_COMMENT_BYTES = 4 * 1024
_MAX_ARGUMENTS_BYTES = 64 * 1024
_MAX_NAME_CHARACTERS = 256
_MAX_RULES = 32


def check_submit_approval(request: runner_pb2.SubmitApprovalRequest) -> None:
    """Validates a SubmitApproval request. Raises InvalidRequestError."""

    def violations() -> Violations:
        if not request.tool_call_id:
            yield FieldViolation("tool_call_id", "must be set, to the id in an approval_requested event")
        if request.generation < 0:
            yield FieldViolation("generation", "must not be negative; 0 means the newest")
        if request.action not in SUBMITTED_ACTIONS:
            yield FieldViolation("action", "must be APPROVE, SKIP or REJECT")
        yield from at_most("comment", len(request.comment.encode()), _MAX_COMMENT_BYTES, "bytes")
        yield from at_most("arguments", request.arguments.ByteSize(), _MAX_ARGUMENTS_BYTES, "bytes")
        yield from at_most("decided_by", len(request.decided_by), _MAX_NAME_CHARACTERS, "characters")
        yield from at_most("granted_rules", len(request.granted_rules), _MAX_RULES, "rules")
        yield from _only_with_approve(request)

    raise_if_any(required_identifier(request.execution_id), violations())


def check_list_approvals(request: runner_pb2.ListApprovalsRequest) -> int:
    """Validates a ListApprovals request and returns the key of its page. Raises InvalidRequestError."""

    def violations() -> Violations:
        if not 0 <= request.page_size <= MAX_PAGE_SIZE:
            yield FieldViolation("page_size", f"must be between 0 and {MAX_PAGE_SIZE}")
        for field in ("execution_id", "session_id"):
            if value := getattr(request, field):
                yield from identifier(field, value)
        if page_key(filters_of(request)) is None:
            yield FieldViolation(
                "page_token", "must be a next_page_token that was given for the same filters, or empty"
            )

    raise_if_any(violations())
    return page_key(filters_of(request)) or 0


def check_watch_approvals(request: runner_pb2.WatchApprovalsRequest) -> None:
    """Validates a WatchApprovals request. Raises InvalidRequestError."""
    raise_if_any(identifier("session_id", request.session_id) if request.session_id else iter(()))


def filters_of(request: runner_pb2.ListApprovalsRequest) -> runner_pb2.ListExecutionsRequest:
    """Returns the listing of executions whose pages these are."""
    return runner_pb2.ListExecutionsRequest(page_token=request.page_token, session_id=request.session_id)


def _only_with_approve(request: runner_pb2.SubmitApprovalRequest) -> Violations:
    if request.grant not in policy_pb2.ApprovalGrant.values():
        yield FieldViolation("grant", "must be one of the values of ApprovalGrant")
    if request.action == event_pb2.APPROVAL_ACTION_APPROVE:
        if request.HasField("arguments") and not all(MessageToDict(request.arguments)):
            yield FieldViolation("arguments", "must not have an empty name")
        return
    for field in ("grant", "granted_rules"):
        if getattr(request, field):
            yield FieldViolation(field, "must only be set with APPROVE")
    if request.HasField("arguments"):
        yield FieldViolation("arguments", "must only be set with APPROVE")
