"""Validates the requests about changes of files."""

from collections.abc import Sequence

from runner_service.api.validation.fields import Violations, at_most, not_negative
from runner_service.api.validation.requests import MAX_PAGE_SIZE, page_key, raise_if_any, required_identifier
from runner_service.errors import FieldViolation
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_MAX_PATHS = 1000
_DEFAULT_CONTEXT_LINES = 3
_MAX_CONTEXT_LINES = 100


def check_list_file_changes(request: runner_pb2.ListFileChangesRequest) -> int:
    """Validates a ListFileChanges request and returns the key of its page. Raises InvalidRequestError."""

    def violations() -> Violations:
        if not 0 <= request.page_size <= MAX_PAGE_SIZE:
            yield FieldViolation("page_size", f"must be between 0 and {MAX_PAGE_SIZE}")
        yield from _range(request.after_sequence, request.to_sequence)
        if page_key(filters_of(request)) is None:
            yield FieldViolation("page_token", "must be a next_page_token that was given for the same fields, or empty")

    raise_if_any(required_identifier(request.execution_id), violations())
    return page_key(filters_of(request)) or 0


def check_get_diff(request: runner_pb2.GetDiffRequest) -> int:
    """Validates a GetDiff request and returns the number of context lines. Raises InvalidRequestError."""

    def violations() -> Violations:
        yield from _range(request.after_sequence, request.to_sequence)
        if not 0 <= request.context_lines <= _MAX_CONTEXT_LINES:
            yield FieldViolation("context_lines", f"must be between 0 and {_MAX_CONTEXT_LINES}")

    raise_if_any(required_identifier(request.execution_id), violations(), _paths(request.paths))
    return request.context_lines if request.HasField("context_lines") else _DEFAULT_CONTEXT_LINES


def check_revert_changes(request: runner_pb2.RevertChangesRequest) -> None:
    """Validates a RevertChanges request. Raises InvalidRequestError."""

    def violations() -> Violations:
        yield from not_negative("to_sequence", request.to_sequence)
        if request.undo_revert and request.to_sequence:
            yield FieldViolation("to_sequence", "must not be set together with undo_revert")

    raise_if_any(required_identifier(request.execution_id), violations(), _paths(request.paths))


def filters_of(request: runner_pb2.ListFileChangesRequest) -> runner_pb2.ListExecutionsRequest:
    """Returns the fields that a page token belongs to, in the form that tokens are made of."""
    return runner_pb2.ListExecutionsRequest(
        session_id=request.execution_id,
        labels={"after": str(request.after_sequence), "to": str(request.to_sequence)},
        page_token=request.page_token,
    )


def _range(after: int, to: int) -> Violations:
    yield from not_negative("after_sequence", after)
    yield from not_negative("to_sequence", to)
    if 0 < to < after:
        yield FieldViolation("to_sequence", "must not be below after_sequence")


def _paths(paths: Sequence[str]) -> Violations:
    yield from at_most("paths", len(paths), _MAX_PATHS, "paths")
    if not all(paths):
        yield FieldViolation("paths", "must not hold an empty path")
