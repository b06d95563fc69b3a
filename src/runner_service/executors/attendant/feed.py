"""What the service sends to the standard input of a command, between its arrival and the command."""

from collections.abc import AsyncGenerator

from runner_service.executors.attendant.spool import News
from runner_service.executors.protocol import SandboxError

_MOST_AHEAD = 512 * 1024


class Feed:
    """Input that has arrived and was not yet read. Its pieces are known by their offsets, so none is taken twice.

    `patience` is how many seconds nobody may ask about the command before it is taken for forsaken.
    """

    def __init__(self, news: News, patience: float) -> None:
        self.patience = patience
        self._news = news
        self._held = bytearray()
        self._received = 0
        self._is_whole = False
        self._is_unwanted = False

    def take_in(self, offset: int, data: bytes, *, is_last: bool) -> None:
        """Takes what is new in a piece. Raises SandboxError: something before it never came."""
        if offset > self._received:
            raise SandboxError("a piece of the input of a command is missing")
        fresh = data[self._received - offset :]
        self._received += len(fresh)
        if not self._is_unwanted:
            self._held += fresh
        self._is_whole = self._is_whole or is_last
        self._news.tell()

    @property
    def has_room(self) -> bool:
        """Says whether the next piece may come."""
        return len(self._held) < _MOST_AHEAD

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Gives what arrives, for the command to read; what arrives after it was closed is dropped."""
        try:
            while self._held or not self._is_whole:
                if self._held:
                    piece = bytes(self._held)
                    self._held.clear()
                    self._news.tell()
                    yield piece
                else:
                    await self._news.wait()
        finally:
            self._is_unwanted = True
            self._held.clear()
            self._news.tell()
