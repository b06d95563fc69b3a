"""Threads for blocking file operations."""

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any, TypeVar

from runner_service.thread_jobs import perform

T = TypeVar("T")

_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class FileThreads:
    """A pool of up to `count` daemon threads, each started when it is needed. Belongs to the event loop.

    `ThreadPoolExecutor` joins its threads when the interpreter exits: one system call that a file system never answers
    would keep the service from ending.
    """

    def __init__(self, count: int) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._count = count
        self._started = 0
        self._idle: list[Thread] = []
        """As many as have nothing to do. Whoever is idle adds itself; only the loop takes away."""

    def run(self, job: Callable[[], T]) -> "asyncio.Future[T]":
        """Runs `job` in one of the threads. One whose future is cancelled before it begins does not run."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((job, done))
        if self._idle:
            self._idle.pop()
        elif self._started < self._count:
            Thread(target=self._work, name=f"files-{self._started}", daemon=True).start()
            self._started += 1
        return done

    def shutdown(self) -> None:
        """Ends the threads once they are idle. Does not wait."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        thread = current_thread()
        while item := self._jobs.get():
            if not item[1].cancelled():
                perform(*item)
            self._idle.append(thread)
            del item  # or the last result would be kept until the next one
