"""Whose turn it is: how many executions work at once, one of each session at a time, and the queue of the others.

Only the first of a session stands in the queue, and the next one joins its end when that one is done. So sessions take
turns however much each of them asks for, and an execution without a session is like a session of its own.
"""

import time
from asyncio import Event
from collections import deque
from collections.abc import Callable
from types import TracebackType

from runner_service.errors import QueueFullError
from runner_service.telemetry import metrics
from runner_service.v1 import execution_event_pb2 as event_pb2

Tell = Callable[[event_pb2.Notice], object]

_RETRY_DELAY = 5.0


class Turn:
    """One execution's place in the queue, and then at work. Leaving its context gives it back, wherever it stands."""

    def __init__(self, admission: "Admission", session_id: str, tell: Tell) -> None:
        self.session_id = session_id
        self.tell = tell
        self._admission = admission
        self._since = time.monotonic()
        self._came = Event()

    @property
    def has_come(self) -> bool:
        """True once the execution may work."""
        return self._came.is_set()

    async def come(self) -> None:
        """Waits until the execution may work."""
        await self._came.wait()

    def begin(self) -> None:
        """Called by the admission: the turn has come."""
        metrics.queue_wait_ended(time.monotonic() - self._since)
        self._came.set()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._admission.give_back(self)


class Admission:
    """Gives turns: `at_once` of them at the same time, while `queued` others may wait. Belongs to the event loop."""

    def __init__(self, *, at_once: int, queued: int) -> None:
        self._at_once = at_once
        self._longest_queue = queued
        self._queue: list[Turn] = []
        self._behind: dict[str, deque[Turn]] = {}
        """Whom each session has waiting behind the one that is in the queue or at work, in the order they came."""
        self._is_closed = False
        self.at_work = 0
        """How many have their turn."""
        self.waiting = 0
        """How many wait for it."""

    def require_room(self, session_id: str) -> None:
        """Lets one more execution apply.

        Raises:
            QueueFullError: it would have to wait, and as many wait already as may.
        """
        has_to_wait = self.at_work >= self._at_once or session_id in self._behind
        if has_to_wait and self.waiting >= self._longest_queue:
            metrics.execution_refused()
            raise QueueFullError(
                f"{self.at_work} executions are at work and {self.waiting} wait, which is all that "
                "MAX_CONCURRENT_EXECUTIONS and MAX_QUEUED_EXECUTIONS allow; call again later",
                retry_delay=_RETRY_DELAY,
            )

    def apply(self, session_id: str, tell: Tell) -> Turn:
        """Returns a turn, which has come if it could; else `tell` is given a notice, and more as it comes nearer.

        There is always room: call `require_room` first where that matters.
        """
        turn = Turn(self, session_id, tell)
        self.waiting += 1
        if session_id in self._behind:
            self._behind[session_id].append(turn)
            turn.tell(_notice("SESSION_BUSY", f"waits for another execution of session {session_id} to end"))
            return turn
        if session_id:
            self._behind[session_id] = deque()
        self._join_queue(turn)
        return turn

    def give_back(self, turn: Turn) -> None:
        """Takes a turn back: who was waiting leaves the queue, who was at work makes room."""
        behind = self._behind.get(turn.session_id, ())
        if turn in behind:
            self._behind[turn.session_id].remove(turn)
            self.waiting -= 1
            return
        if turn.has_come:
            self.at_work -= 1
            self._admit()
        else:
            self._leave_queue(turn)
        self._let_follow(turn.session_id)

    def close(self) -> None:
        """Gives no more turns: whoever has none yet waits until it is given back."""
        self._is_closed = True

    def _let_follow(self, session_id: str) -> None:
        behind = self._behind.get(session_id)
        if behind:
            self._join_queue(behind.popleft())
        else:
            self._behind.pop(session_id, None)

    def _join_queue(self, turn: Turn) -> None:
        self._queue.append(turn)
        self._admit()
        if not turn.has_come:
            self._tell_position(len(self._queue))

    def _admit(self) -> None:
        while self._queue and self.at_work < self._at_once and not self._is_closed:
            turn = self._queue[0]
            self.at_work += 1
            turn.begin()
            self._leave_queue(turn)

    def _leave_queue(self, turn: Turn) -> None:
        """Lets those behind move up. They are told when their position is a power of two: more would be noise."""
        index = self._queue.index(turn)
        del self._queue[index]
        self.waiting -= 1
        position = 1
        while position <= len(self._queue):
            if position > index:
                self._tell_position(position)
            position *= 2

    def _tell_position(self, position: int) -> None:
        if not self._is_closed:
            self._queue[position - 1].tell(
                _notice("QUEUED", f"waits for its turn, at position {position} of the queue")
            )


def _notice(code: str, text: str) -> event_pb2.Notice:
    return event_pb2.Notice(level=event_pb2.Notice.LEVEL_INFO, code=code, text=text)
