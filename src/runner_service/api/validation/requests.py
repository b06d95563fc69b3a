"""Request validation. Reports every invalid field at once, before the request has any effect."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from itertools import chain, islice

from google.protobuf.timestamp_pb2 import Timestamp

from runner_service.api.validation.agents import agent_violations
from runner_service.api.validation.confinement import confinement_violations
from runner_service.api.validation.fields import (
    MAX_ENVIRONMENT_BYTES,
    MAX_VARIABLES,
    Violations,
    at_most,
    identifier,
    not_negative,
    text_size,
)
from runner_service.approvals.validation import policy_violations
from runner_service.errors import FieldViolation, InvalidRequestError
from runner_service.identity import ANY_TENANT, NO_KEY, TENANT, Caller, owner_key
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.execution_order import ExecutionOrder
from runner_service.v1 import agent_runner_pb2 as runner_pb2

MAX_LABELS = 64
MAX_LABEL_KEY_CHARACTERS = 63
MAX_LABEL_VALUE_CHARACTERS = 256
MAX_REASON_CHARACTERS = 1024
MAX_PAGE_SIZE = 500
DEFAULT_PAGE_SIZE = 50
MAX_READ_BYTES = 1024 * 1024
DEFAULT_READ_BYTES = 64 * 1024
MAX_DURATION_SECONDS = 30 * 24 * 3600
MIN_SECRET_BYTES = 6
"""Shorter secrets cannot be redacted: they also occur in ordinary text."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HIGHEST_KEY = 2**63 - 1
_MAX_STATES = 64
_MAX_VIOLATIONS = 100  # a request may have a million; a status has room for some ten
_TIMES = ("created_after", "created_before")
_NANOSECONDS = 1_000_000_000
_MAX_TIME_SECONDS = 2**63 // _NANOSECONDS


def check_execute(request: runner_pb2.ExecuteAgentRequest) -> None:
    """Validates an ExecuteAgent request. Raises InvalidRequestError."""
    raise_if_any(_execute_violations(request))


def check_watch(request: runner_pb2.WatchExecutionRequest) -> None:
    """Validates a WatchExecution request. Raises InvalidRequestError."""
    raise_if_any(required_identifier(request.execution_id), not_negative("after_sequence", request.after_sequence))


def check_get(request: runner_pb2.GetExecutionRequest) -> None:
    """Validates a GetExecution request. Raises InvalidRequestError."""
    raise_if_any(required_identifier(request.execution_id))


def check_delete_execution(request: runner_pb2.DeleteExecutionRequest) -> None:
    """Validates a DeleteExecution request. Raises InvalidRequestError."""
    raise_if_any(required_identifier(request.execution_id))


def check_delete_session(request: runner_pb2.DeleteSessionRequest) -> None:
    """Validates a DeleteSession request. Raises InvalidRequestError."""
    raise_if_any(required_identifier(request.session_id, "session_id"))


def check_cancel(request: runner_pb2.CancelExecutionRequest) -> None:
    """Validates a CancelExecution request. Raises InvalidRequestError."""
    raise_if_any(
        required_identifier(request.execution_id),
        at_most("reason", len(request.reason), MAX_REASON_CHARACTERS, "characters"),
    )


def check_read(request: runner_pb2.ReadToolOutputRequest) -> None:
    """Validates a ReadToolOutput request. Raises InvalidRequestError."""

    def violations() -> Violations:
        if not request.tool_call_id:
            yield FieldViolation("tool_call_id", "must be set, to the id in a tool_call_started event")
        if request.stream not in {runner_pb2.OUTPUT_STREAM_STDOUT, runner_pb2.OUTPUT_STREAM_STDERR}:
            yield FieldViolation("stream", "must be OUTPUT_STREAM_STDOUT or OUTPUT_STREAM_STDERR")
        yield from not_negative("offset", request.offset)
        if not 0 <= request.max_bytes <= MAX_READ_BYTES:
            yield FieldViolation("max_bytes", f"must be between 0 and {MAX_READ_BYTES}")

    raise_if_any(required_identifier(request.execution_id), violations())


def check_list(request: runner_pb2.ListExecutionsRequest, caller: Caller) -> int:
    """Validates a ListExecutions request and returns the key at which its page begins, 0 for the first page.

    Raises:
        InvalidRequestError: a field is invalid, or the page token was issued for other filters.
    """

    def violations() -> Violations:
        if not 0 <= request.page_size <= MAX_PAGE_SIZE:
            yield FieldViolation("page_size", f"must be between 0 and {MAX_PAGE_SIZE}")
        yield from at_most("states", len(request.states), _MAX_STATES, "states")
        if request.session_id:
            yield from identifier("session_id", request.session_id)
        yield from _label_violations(request.labels)
        yield from _tenant_violations(request, caller)
        yield from _order_violations(request)
        for field, value in request.ListFields():
            if field.name in _TIMES and not _is_valid_time(value):
                yield FieldViolation(field.name, "must be a time between the years 1970 and 2261")
        if request.page_token and page_key(request) is None:
            yield FieldViolation(
                "page_token", "must be a next_page_token that was given for the same filters, or empty"
            )

    raise_if_any(violations())
    return page_key(request) or 0


def execution_filter(request: runner_pb2.ListExecutionsRequest, tenant: str) -> ExecutionFilter:
    """Returns the filters of a valid request of a caller that acts for `tenant`."""
    tenant = request.tenant or tenant
    times = {field.name: value.ToNanoseconds() for field, value in request.ListFields() if field.name in _TIMES}
    return ExecutionFilter(
        request.states,
        tenant=tenant,
        session_id=owner_key(tenant, request.session_id) if request.session_id else NO_KEY,
        labels=request.labels,
        created_after=times.get("created_after"),
        created_before=times.get("created_before"),
        name=request.name,
    )


def execution_order(request: runner_pb2.ListExecutionsRequest) -> ExecutionOrder | None:
    """Returns the order that a valid request asks for; None for newest first."""
    return ExecutionOrder(request.order_by, request.ascending) if request.order_by else None


def page_token(request: runner_pb2.ListExecutionsRequest, key: int) -> str:
    """Returns the token of the page that begins after `key`, for the filters of `request`; empty for key 0."""
    if not key:
        return ""
    return base64.urlsafe_b64encode(f"{key}:{_filters(request)}".encode()).decode()


def page_key(request: runner_pb2.ListExecutionsRequest) -> int | None:
    """Returns the key in the page token, 0 without one; None if it was issued for other filters."""
    if not request.page_token:
        return 0
    try:
        key, _, filters = base64.urlsafe_b64decode(request.page_token.encode()).decode().partition(":")
        return int(key) if filters == _filters(request) and 0 <= int(key) <= _HIGHEST_KEY else None
    except (ValueError, binascii.Error):
        return None


def _filters(request: runner_pb2.ListExecutionsRequest) -> str:
    filters = runner_pb2.ListExecutionsRequest()
    filters.CopyFrom(request)
    filters.ClearField("page_size")
    filters.ClearField("page_token")
    filters.states[:] = sorted(request.states)
    return hashlib.sha256(filters.SerializeToString(deterministic=True)).hexdigest()[:16]


def _execute_violations(request: runner_pb2.ExecuteAgentRequest) -> Violations:
    if request.execution_id:
        yield from identifier("execution_id", request.execution_id)
    elif not request.HasField("agent"):
        yield FieldViolation("agent", "must be set to start an execution; to attach to one, set execution_id")
    if request.session_id:
        yield from identifier("session_id", request.session_id)
    yield from not_negative("after_sequence", request.after_sequence)
    if request.disconnect_policy not in runner_pb2.DisconnectPolicy.values():
        yield FieldViolation("disconnect_policy", "must be one of the values of DisconnectPolicy")
    if request.HasField("agent"):
        yield from _agent(request)
        yield from _environment(request)
    else:
        yield from _without_agent(request)
    yield from _limits(request.limits)
    yield from _label_violations(request.labels)
    yield from confinement_violations(request.confinement)
    yield from policy_violations("approval_policy", request.approval_policy)


def _without_agent(request: runner_pb2.ExecuteAgentRequest) -> Violations:
    for field in ("session_id", "message", "environment"):
        if getattr(request, field):
            yield FieldViolation(field, "must not be set without agent")
    if request.HasField("approval_policy"):
        yield FieldViolation("approval_policy", "must not be set without agent")


def _agent(request: runner_pb2.ExecuteAgentRequest) -> Violations:
    if not request.message.strip():
        yield FieldViolation("message", "must say what the agent is to do")
    yield from text_size("message", request.message)
    yield from agent_violations(request.agent, request.environment)


def _environment(request: runner_pb2.ExecuteAgentRequest) -> Violations:
    yield from at_most("environment", len(request.environment), MAX_VARIABLES, "variables")
    if len(request.environment) > MAX_VARIABLES:
        return
    size = sum(len(name.encode()) + len(entry.value.encode()) for name, entry in request.environment.items())
    yield from at_most("environment", size, MAX_ENVIRONMENT_BYTES, "bytes")
    for name, entry in request.environment.items():
        field = f"environment[{name!r}]"
        if not _VARIABLE.fullmatch(name):
            yield FieldViolation(field, "must be named with letters, digits and '_', not beginning with a digit")
        if "\0" in entry.value:
            yield FieldViolation(f"{field}.value", "must not hold a NUL")
        if entry.is_secret and 0 < len(entry.value.encode()) < MIN_SECRET_BYTES:
            yield FieldViolation(f"{field}.value", f"must have at least {MIN_SECRET_BYTES} bytes, being a secret")


def _limits(limits: runner_pb2.ExecutionLimits) -> Violations:
    for name in ("timeout", "command_timeout"):
        duration = getattr(limits, name)
        if limits.HasField(name) and not 0 < duration.seconds + duration.nanos / 1e9 <= MAX_DURATION_SECONDS:
            yield FieldViolation(
                f"limits.{name}", "must be above zero and at most 30 days; leave it out for the default"
            )
    for name in ("max_model_calls", "max_tool_calls", "max_total_tokens", "max_output_bytes"):
        yield from not_negative(f"limits.{name}", getattr(limits, name))


def _label_violations(labels: Mapping[str, str]) -> Violations:
    yield from at_most("labels", len(labels), MAX_LABELS, "labels")
    for key, value in labels.items():
        if not 0 < len(key) <= MAX_LABEL_KEY_CHARACTERS or len(value) > MAX_LABEL_VALUE_CHARACTERS:
            yield FieldViolation(
                f"labels[{key[:MAX_LABEL_KEY_CHARACTERS]!r}]",
                f"must have a key of 1 to {MAX_LABEL_KEY_CHARACTERS} characters "
                f"and a value of at most {MAX_LABEL_VALUE_CHARACTERS}",
            )


def _order_violations(request: runner_pb2.ListExecutionsRequest) -> Violations:
    yield from at_most("name", len(request.name), MAX_LABEL_VALUE_CHARACTERS, "characters")
    if request.order_by not in runner_pb2.ExecutionOrder.values():
        yield FieldViolation("order_by", "must be one of the values of ExecutionOrder")
    elif request.ascending and not request.order_by:
        yield FieldViolation("ascending", "must not be set without order_by")


def _tenant_violations(request: runner_pb2.ListExecutionsRequest, caller: Caller) -> Violations:
    if request.tenant in {"", caller.tenant}:
        return
    if not caller.is_operator:
        yield FieldViolation("tenant", "must be empty: only operators list the executions of other tenants")
    elif request.tenant == ANY_TENANT:
        if request.session_id:
            yield FieldViolation("session_id", "must be empty with the tenant '*': each tenant has sessions of its own")
    elif not TENANT.fullmatch(request.tenant):
        yield FieldViolation("tenant", "must be the name of a tenant, or '*' for all")


def _is_valid_time(time: Timestamp) -> bool:
    return 0 <= time.seconds < _MAX_TIME_SECONDS and 0 <= time.nanos < _NANOSECONDS


def required_identifier(value: str, field: str = "execution_id") -> Violations:
    """Yields a violation unless `execution_id` is set and valid."""
    if value:
        yield from identifier(field, value)
    else:
        yield FieldViolation(field, "must be set")


def raise_if_any(*checks: Violations) -> None:
    """Raises InvalidRequestError with the violations, if there are any; with the first ones if there are many."""
    violations = list(islice(chain.from_iterable(checks), _MAX_VIOLATIONS))
    if violations:
        raise InvalidRequestError(violations)
