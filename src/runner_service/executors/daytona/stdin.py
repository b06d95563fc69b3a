"""Sends standard input to a command in a sandbox, in chunks that are safe to resend."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator

from runner_service.executors.attendant.output_buffer import Notifier
from runner_service.executors.daytona.session import ExecutionSession

_MAX_CHUNK_CHARS = 192 * 1024


async def send_stdin(
    session: ExecutionSession, name: str, items: AsyncIterator[bytes], *, keepalive_interval: float
) -> None:
    """Sends `items` to the named command until it ends or is unknown.

    Sends at least every `keepalive_interval` seconds, possibly nothing: a command with stdin ends when its client is
    gone. Closes the items at the end, if they can be closed.

    Raises:
        SandboxError: the sandbox is lost.
        Exception: whatever the items raise.
    """
    pending = _PendingInput()
    collecting = asyncio.create_task(pending.collect(items))
    try:
        offset, has_room = 0, True
        while True:
            chunk = await pending.next_chunk(timeout_seconds=keepalive_interval) if has_room else b""
            is_last = pending.is_drained and has_room
            data = base64.b64encode(chunk).decode()
            response = await session.request(
                "stdin", wait=keepalive_interval, name=name, offset=offset, data=data, is_last=is_last
            )
            if "unknown_command" in response or response["has_ended"]:
                return
            offset += len(chunk)
            has_room = response["has_room"]
    finally:
        collecting.cancel()
        await asyncio.wait([collecting])


class _PendingInput:
    """Input read from the items and not yet sent."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._notifier = Notifier()
        self._changed = False
        self._is_complete = False
        self._failure: BaseException | None = None

    @property
    def is_drained(self) -> bool:
        """Whether the input is complete and all of it was sent."""
        return self._is_complete and not self._held

    async def collect(self, items: AsyncIterator[bytes]) -> None:
        """Reads the items while there is room."""
        try:
            async for item in items:
                while len(self._held) >= _MAX_CHUNK_CHARS:
                    await self._notifier.wait()
                self._held += item
                self._signal()
            self._is_complete = True
        except Exception as error:  # noqa: BLE001  # raised by `next_chunk`, where the command is run
            self._failure = error
        finally:
            self._signal()
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    async def next_chunk(self, *, timeout_seconds: float) -> bytes:
        """Returns the next chunk; empty on timeout. Raises what the items raised."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not (self._held or self._changed):
                    await self._notifier.wait()
        except TimeoutError:
            return b""
        self._changed = False
        if self._failure:
            raise self._failure
        chunk = bytes(self._held[:_MAX_CHUNK_CHARS])
        del self._held[:_MAX_CHUNK_CHARS]
        self._notifier.notify()
        return chunk

    def _signal(self) -> None:
        self._changed = True
        self._notifier.notify()
