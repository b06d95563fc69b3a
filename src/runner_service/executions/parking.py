"""The executions of this process that are WAITING for approvals: their places in the queue, and what resumes them."""

import logging
from typing import NamedTuple

from runner_service.executions.execution import Execution
from runner_service.executions.runner import PreparedRun
from runner_service.storage.queue import Slot

logger = logging.getLogger(__name__)

_MAX_KEPT_RUNS = 1000
_MAX_KEPT_REQUEST_BYTES = 256 * 1024


class _Parked(NamedTuple):
    slot: Slot
    run: PreparedRun | None
    """None if the request is in the log, or there was no room."""


class Parking:
    """Parked executions by id. Belongs to the event loop."""

    def __init__(self) -> None:
        self._parked: dict[str, _Parked] = {}

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, execution: Execution, slot: Slot, run: PreparedRun) -> None:
        """Keeps the run of an execution whose request, for its secrets, is not in the log, while there is room."""
        slot.park()
        has_to_keep = execution.request is None and run.request.ByteSize() <= _MAX_KEPT_REQUEST_BYTES
        has_room = sum(each.run is not None for each in self._parked.values()) < _MAX_KEPT_RUNS
        self._parked[execution.id] = _Parked(slot, run if has_to_keep and has_room else None)
        logger.info("execution_parked pending_approvals=%d", execution.record.pending_approvals)

    def add(self, execution_id: str, slot: Slot) -> None:
        """Keeps the place of an execution that an earlier process has parked."""
        self._parked[execution_id] = _Parked(slot, None)

    def run_of(self, execution_id: str) -> PreparedRun | None:
        """Returns the run of a parked execution, if this process has accepted it and its request had secrets."""
        parked = self._parked.get(execution_id)
        return parked.run if parked else None

    def unpark(self, execution_id: str) -> Slot | None:
        """Returns a slot in the queue that takes the place of a parked one; None if it is not parked."""
        parked = self._parked.pop(execution_id, None)
        return parked.slot.unpark() if parked else None

    def release(self, execution_id: str) -> None:
        """Gives up the place of an execution, if it is parked."""
        if parked := self._parked.pop(execution_id, None):
            parked.slot.release()
