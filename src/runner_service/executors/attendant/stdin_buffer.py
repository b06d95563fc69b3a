"""Buffers the standard input of a command between the service and the command."""

from collections.abc import AsyncGenerator

from runner_service.executors.attendant.output_buffer import Notifier
from runner_service.executors.protocol import SandboxError

_MAX_UNREAD_BYTES = 512 * 1024


class StdinBuffer:
    """Input received and not yet read by the command. Chunks carry offsets, so resent ones are ignored.

    `idle_timeout` is how many seconds without requests end the command.
    """

    def __init__(self, notifier: Notifier, idle_timeout: float) -> None:
        self.idle_timeout = idle_timeout
        self._notifier = notifier
        self._held = bytearray()
        self._received = 0
        self._is_complete = False
        self._is_closed = False

    def receive(self, offset: int, data: bytes, *, is_last: bool) -> None:
        """Appends the new part of a chunk. Raises SandboxError if an earlier chunk is missing."""
        if offset > self._received:
            raise SandboxError("a chunk of the input of a command is missing")
        fresh = data[self._received - offset :]
        self._received += len(fresh)
        if not self._is_closed:
            self._held += fresh
        self._is_complete = self._is_complete or is_last
        self._notifier.notify()

    @property
    def has_room(self) -> bool:
        """Whether another chunk may be sent."""
        return len(self._held) < _MAX_UNREAD_BYTES

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yields input as it arrives; drops what arrives after the generator was closed."""
        try:
            while self._held or not self._is_complete:
                if self._held:
                    chunk = bytes(self._held)
                    self._held.clear()
                    self._notifier.notify()
                    yield chunk
                else:
                    await self._notifier.wait()
        finally:
            self._is_closed = True
            self._held.clear()
            self._notifier.notify()
