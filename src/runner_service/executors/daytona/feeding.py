"""The standard input of a command in a box: gathered here, and sent in pieces that may be sent again."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator

from runner_service.executors.attendant.spool import News
from runner_service.executors.daytona.session import Attendance

_LARGEST_PIECE = 192 * 1024


async def feed(attendance: Attendance, name: str, items: AsyncIterator[bytes], *, every: float) -> None:
    """Sends `items` to the command of that name, until it has ended or is not known.

    At least `every` seconds something is sent, be it nothing, since the command lives only as long as it hears of us.
    In the end the items are closed, if they can be.

    Raises:
        SandboxError: the sandbox is lost.
        Exception: whatever the items raise.
    """
    gathered = _Gathered()
    gathering = asyncio.create_task(gathered.gather(items))
    try:
        offset, has_room = 0, True
        while True:
            piece = await gathered.next(within=every) if has_room else b""
            is_last = gathered.is_empty and has_room
            data = base64.b64encode(piece).decode()
            answer = await attendance.ask("feed", wait=every, name=name, offset=offset, data=data, is_last=is_last)
            if "unknown_command" in answer or answer["has_ended"]:
                return
            offset += len(piece)
            has_room = answer["has_room"]
    finally:
        gathering.cancel()
        await asyncio.wait([gathering])


class _Gathered:
    """What the items gave and was not yet sent."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._news = News()
        self._has_news = False
        self._is_whole = False
        self._failure: BaseException | None = None

    @property
    def is_empty(self) -> bool:
        """Says whether there is nothing and will be nothing."""
        return self._is_whole and not self._held

    async def gather(self, items: AsyncIterator[bytes]) -> None:
        """Takes the items, as long as there is room."""
        try:
            async for item in items:
                while len(self._held) >= _LARGEST_PIECE:
                    await self._news.wait()
                self._held += item
                self._tell()
            self._is_whole = True
        except Exception as error:  # noqa: BLE001  # raised by `next`, to whoever runs the command
            self._failure = error
        finally:
            self._tell()
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    async def next(self, *, within: float) -> bytes:
        """Returns what comes next, or nothing when nothing happens `within` seconds. Raises what the items did."""
        try:
            async with asyncio.timeout(within):
                while not (self._held or self._has_news):
                    await self._news.wait()
        except TimeoutError:
            return b""
        self._has_news = False
        if self._failure:
            raise self._failure
        piece = bytes(self._held[:_LARGEST_PIECE])
        del self._held[:_LARGEST_PIECE]
        self._news.tell()
        return piece

    def _tell(self) -> None:
        self._has_news = True
        self._news.tell()
