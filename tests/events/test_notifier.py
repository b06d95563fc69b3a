"""Broadcast notification with a timeout."""

import asyncio

import pytest
import uvloop

from runner_service.events.notifier import Notifier


async def test_a_notification_wakes_all_current_waiters_and_none_that_come_later() -> None:
    notifier = Notifier()
    waiting = [asyncio.create_task(notifier.wait(10.0)) for _ in range(3)]
    await asyncio.sleep(0)
    notifier.notify_all()

    assert await asyncio.gather(*waiting) == [True, True, True]
    assert await notifier.wait(0.01) is False


async def test_a_cancelled_waiter_is_removed() -> None:
    notifier = Notifier()
    waiting = asyncio.create_task(notifier.wait(10.0))
    await asyncio.sleep(0)
    waiting.cancel()
    notifier.notify_all()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not notifier._waiting


async def test_each_waiter_has_its_own_timeout() -> None:
    notifier = Notifier()
    loop = asyncio.get_running_loop()
    began = loop.time()
    longest = asyncio.create_task(notifier.wait(10.0))
    await asyncio.sleep(0)

    assert not any(await asyncio.gather(notifier.wait(0.1), notifier.wait(0.05)))
    assert loop.time() - began >= 0.1
    assert await notifier.wait(0.01) is False
    assert not longest.done()
    notifier.notify_all()
    assert await longest is True


def test_uvloop_expires_waiters_that_are_due_within_one_of_its_milliseconds() -> None:
    async def wait() -> list[bool]:
        notifier = Notifier()
        timeouts = [0.01 - number / 10_000 for number in range(100)]
        return await asyncio.gather(*(notifier.wait(timeout) for timeout in timeouts))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(wait()) == [False] * 100
