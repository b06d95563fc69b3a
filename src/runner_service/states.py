"""The states of an execution and the changes between them. No other module compares states."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from runner_service.v1 import execution_event_pb2 as event_pb2

State: TypeAlias = "event_pb2.State.ValueType"

PENDING: Final = event_pb2.STATE_PENDING
"""In the queue, or about to begin."""

RUNNING: Final = event_pb2.STATE_RUNNING
"""Its agent is at work in some process."""

WAITING: Final = event_pb2.STATE_WAITING
"""Parked until a person decides about its tool calls. No process owns it."""

INTERRUPTED: Final = event_pb2.STATE_INTERRUPTED
"""Its process stopped before its end. It can be resumed."""

SUCCEEDED: Final = event_pb2.STATE_SUCCEEDED
FAILED: Final = event_pb2.STATE_FAILED
CANCELLED: Final = event_pb2.STATE_CANCELLED
TIMED_OUT: Final = event_pb2.STATE_TIMED_OUT

FINAL_STATES: Final = frozenset({SUCCEEDED, FAILED, CANCELLED, TIMED_OUT})
"""Nothing more happens to an execution in one of these."""

ACTIVE_STATES: Final = frozenset({PENDING, RUNNING})
"""A process owns an execution in one of these."""

OPEN_STATES: Final = (PENDING, RUNNING, WAITING, INTERRUPTED)
"""All that are not final, in the order in which an execution passes them."""

TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    PENDING: frozenset({RUNNING, INTERRUPTED, FAILED, CANCELLED, TIMED_OUT}),
    RUNNING: frozenset({WAITING, INTERRUPTED, SUCCEEDED, FAILED, CANCELLED, TIMED_OUT}),
    WAITING: frozenset({PENDING, INTERRUPTED, FAILED, CANCELLED, TIMED_OUT}),
    INTERRUPTED: frozenset({PENDING, FAILED, CANCELLED, TIMED_OUT}),
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
    CANCELLED: frozenset(),
    TIMED_OUT: frozenset(),
}
"""By state: the states that may follow. A process that is killed leaves PENDING and RUNNING as INTERRUPTED."""


class InvalidTransitionError(Exception):
    """A change of state that `TRANSITIONS` does not have: a defect of the service."""

    def __init__(self, current: State, following: State) -> None:
        super().__init__(f"an execution cannot go from {state_name(current)} to {state_name(following)}")


def is_final(state: State) -> bool:
    """True when nothing more can happen to the execution."""
    return state in FINAL_STATES


def is_active(state: State) -> bool:
    """True from the acceptance or resumption of an execution until its end or interruption."""
    return state in ACTIVE_STATES


def is_pending(state: State) -> bool:
    """True while the execution is queued."""
    return state == PENDING


def is_running(state: State) -> bool:
    """True while the agent is at work."""
    return state == RUNNING


def is_interrupted(state: State) -> bool:
    """True for an execution that can be resumed."""
    return state == INTERRUPTED


def is_waiting(state: State) -> bool:
    """True while nothing of the execution runs until a person decides."""
    return state == WAITING


def is_success(state: State) -> bool:
    """True for the one end that is a success."""
    return state == SUCCEEDED


def is_failure(state: State) -> bool:
    """True for the end that has a reason of its own, rather than a cancellation or a time limit."""
    return state == FAILED


def require_transition(current: State, following: State) -> None:
    """Raises InvalidTransitionError unless `following` may come after `current`."""
    if following not in TRANSITIONS[current]:
        raise InvalidTransitionError(current, following)


def state_name(state: State) -> str:
    """Returns the name of a state as in the proto; a number that this version does not know stays a number."""
    return event_pb2.State.Name(state) if state in event_pb2.State.values() else str(state)
