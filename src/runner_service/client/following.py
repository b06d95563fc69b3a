"""Follows the events of an execution through streams that break, each event once."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from runner_service.client.errors import is_disconnect, is_expired, retry_delay
from runner_service.v1 import execution_event_pb2 as event_pb2

OnDisconnect = Callable[[grpc.aio.AioRpcError], Awaitable[None]]
Call = grpc.aio.UnaryStreamCall[Any, Any]
OpenStream = Callable[[int, int], Call]
"""Opens a stream of the events after a sequence that an owner has published."""

_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 2.0  # between two attempts to attach again
_SILENCE_TIMEOUT_SECONDS = 45.0  # the service sends a keepalive every 15
_BEFORE_STARTED = {"notice", "approval_decided"}
"""What a new owner can publish before its `started`: after such an event nobody knows whose it was."""


@dataclass(frozen=True)
class RetryLimits:
    """For how long broken streams are opened again."""

    retry_timeout: float
    """How many seconds of outage are bridged."""
    queue_timeout: float
    """For how many seconds an execution is retried while the service's queue is full."""
    can_renew: bool
    """Whether an expired credential is replaced by the next call."""


async def follow(
    open_stream: OpenStream, after: int, owner: int, *, limits: RetryLimits, on_disconnect: OnDisconnect | None
) -> AsyncGenerator[event_pb2.ExecutionEvent, None]:
    """Yields the events above `after`; reopens the stream after the last one seen whenever it breaks."""
    finished, kind = False, None
    backoff = _Backoff(limits)
    while not finished:
        call = open_stream(after, 0 if kind in _BEFORE_STARTED else owner)
        try:
            while (response := await _next_response(call)) is not None:
                backoff = _Backoff(limits)
                for event in response.events:
                    after, finished = event.sequence, event.HasField("finished")
                    owner, kind = event.started.owner or owner, event.WhichOneof("event")
                    yield event
            break
        except grpc.aio.AioRpcError as error:
            pause = backoff.after(error)
            if on_disconnect is not None and not finished:
                await on_disconnect(error)
        finally:
            call.cancel()
        await asyncio.sleep(pause)


class _Backoff:
    """The delay before each retry, in seconds, from the first failure on."""

    def __init__(self, limits: RetryLimits) -> None:
        self._limits = limits
        self._failing_since: float | None = None
        self._next = _MIN_BACKOFF_SECONDS

    def after(self, error: grpc.aio.AioRpcError) -> float:
        """Returns the delay after `error`. Raises `error` if it is not retryable, or the timeout is reached."""
        requested = retry_delay(error)
        is_full = error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and requested is not None
        if not (is_full or is_disconnect(error) or (self._limits.can_renew and is_expired(error))):
            raise error
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since >= (self._limits.queue_timeout if is_full else self._limits.retry_timeout):
            raise error
        if is_full and requested is not None:
            return requested * random.uniform(1.0, 1.5)  # noqa: S311  # only spreads callers out
        pause, self._next = self._next, min(2 * self._next, _MAX_BACKOFF_SECONDS)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311  # the same


async def _next_response(call: Call) -> Any:
    """Returns the next response, None at the end. A stream without any response for too long counts as broken."""
    try:
        async with asyncio.timeout(_SILENCE_TIMEOUT_SECONDS):
            response = await call.read()
    except TimeoutError:
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE,
            grpc.aio.Metadata(),
            grpc.aio.Metadata(),
            details=f"no response for {_SILENCE_TIMEOUT_SECONDS:g} s",
        ) from None
    return None if response is grpc.aio.EOF else response
