"""Threads for blocking file operations."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any

_Task = Callable[[], None]


class FileThreads(Executor):
    """A pool of up to `count` daemon threads, each started when it is needed. Belongs to the event loop.

    `ThreadPoolExecutor` joins its threads when the interpreter exits: one system call that a file system never answers
    would keep the service from ending.
    """

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._count = count
        self._started = 0
        self._idle = Semaphore(0)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs `fn` in one of the threads."""
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # whoever waits for the future gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        self._tasks.put(run)
        if not self._idle.acquire(blocking=False) and self._started < self._count:
            Thread(target=self._work, name=f"files-{self._started}", daemon=True).start()
            self._started += 1
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  # as its base has it
        """Ends the threads once they are idle. Does not wait."""
        for _ in range(self._started):
            self._tasks.put(None)

    def _work(self) -> None:
        while task := self._tasks.get():
            task()
            self._idle.release()
            del task  # or the last result would be kept until the next one
