"""A thread that does what the event loop hands it, one after the other."""

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")

_Work = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class WritingThread:
    """A way to a thread and back that costs half of what a pool of one does: each event that comes alone goes it."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        """Returns what `work` does, and raises what it raises. Who is cancelled meanwhile does not stop it."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._work.put((work, done))
        return await done

    def shutdown(self) -> None:
        """Waits for all that was handed over, and ends the thread. Blocks."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while given := self._work.get():
            work, done = given
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
                done.get_loop().call_soon_threadsafe(_fail, done, error)
            else:
                done.get_loop().call_soon_threadsafe(_succeed, done, result)


def _succeed(done: "asyncio.Future[Any]", result: object) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: "asyncio.Future[Any]", error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
