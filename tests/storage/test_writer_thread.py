"""A thread that does what the event loop hands it."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from runner_service.storage.sqlite.writer_thread import WriterThread


@pytest.fixture
def thread() -> Iterator[WriterThread]:
    thread = WriterThread("under-test")
    yield thread
    thread.shutdown()


async def test_what_is_handed_over_is_done_in_order_by_one_thread_that_is_not_the_loops(thread: WriterThread) -> None:
    done: list[tuple[int, int]] = []

    def work(number: int) -> int:
        done.append((number, threading.get_ident()))
        return number

    assert await asyncio.gather(*(thread.run(partial(work, number)) for number in range(100))) == [*range(100)]
    assert [number for number, _ in done] == [*range(100)]
    (ident,) = {ident for _, ident in done}
    assert ident != threading.get_ident()


async def test_what_fails_is_raised_where_it_is_waited_for_and_the_next_goes_on(thread: WriterThread) -> None:
    def fail() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await thread.run(fail)
    assert await thread.run(lambda: 1) == 1


async def test_who_is_cancelled_does_not_stop_the_work(thread: WriterThread) -> None:
    may_end, ended = threading.Event(), threading.Event()

    def work() -> None:
        may_end.wait(10)
        ended.set()

    waiting = asyncio.create_task(thread.run(work))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_end.set()
    assert await thread.run(ended.is_set)


async def test_a_shutdown_waits_for_what_was_handed_over() -> None:
    thread = WriterThread("under-test")
    done: list[int] = []
    handed = [asyncio.create_task(thread.run(partial(done.append, number))) for number in range(10)]
    await asyncio.sleep(0)
    await asyncio.to_thread(thread.shutdown)
    await asyncio.gather(*handed)
    assert done == [*range(10)]
