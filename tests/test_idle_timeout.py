"""A time-out that is put off again and again."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from runner_service.idle_timeout import IdleTimeout, idle_timeout


async def expires_in(block: Callable[[IdleTimeout], Awaitable[None]]) -> bool:
    """Whether the timeout ends a block, which waits for it at its end."""
    try:
        async with asyncio.timeout(30), idle_timeout() as idle:
            await block(idle)
            await asyncio.sleep(0.1)
    except TimeoutError:
        return idle.expired
    return False


async def test_a_block_ends_when_the_time_has_come() -> None:
    async def block(idle: IdleTimeout) -> None:
        idle.arm(0.01)
        await asyncio.Event().wait()

    assert await expires_in(block)


async def test_a_timeout_that_is_restarted_expires_later() -> None:
    survived = asyncio.Event()

    async def block(idle: IdleTimeout) -> None:
        idle.arm(0.02)
        idle.arm(60)
        await asyncio.sleep(0.2)
        survived.set()
        idle.arm(0.01)
        await asyncio.Event().wait()

    assert await expires_in(block)
    assert survived.is_set()


async def test_a_disarmed_timeout_does_not_expire_until_it_is_armed_again() -> None:
    async def block(idle: IdleTimeout) -> None:
        idle.arm(0.01)
        idle.disarm()

    async def block_that_goes_on(idle: IdleTimeout) -> None:
        await block(idle)
        await asyncio.sleep(0.03)
        idle.arm(0.01)
        await asyncio.Event().wait()

    assert not await expires_in(block)
    assert await expires_in(block_that_goes_on)


async def test_the_time_for_which_the_process_was_stopped_does_not_count() -> None:
    async def block(idle: IdleTimeout) -> None:
        idle.arm(0.4)
        time.sleep(1.7)  # noqa: ASYNC251  # as SIGSTOP does to the loop
        for _ in range(100):  # what has come meanwhile
            await asyncio.sleep(0)
        idle.disarm()

    async def block_stopped_a_little_longer(idle: IdleTimeout) -> None:
        idle.arm(0.9)
        time.sleep(1.0)  # noqa: ASYNC251  # as above
        for _ in range(100):
            await asyncio.sleep(0)
        idle.disarm()

    async def block_that_goes_on(idle: IdleTimeout) -> None:
        idle.arm(0.2)
        time.sleep(1.5)  # noqa: ASYNC251  # as above
        await asyncio.Event().wait()

    assert not await expires_in(block)
    assert not await expires_in(block_stopped_a_little_longer)
    assert await expires_in(block_that_goes_on)


async def test_a_time_out_inside_is_not_ours() -> None:
    async def block(idle: IdleTimeout) -> None:
        idle.arm(10)
        raise TimeoutError

    assert not await expires_in(block)


async def test_whoever_is_cancelled_is_cancelled() -> None:
    async def block(idle: IdleTimeout) -> None:
        idle.arm(10)
        await asyncio.Event().wait()

    task = asyncio.create_task(expires_in(block))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_shorter_timeout_than_before_expires_on_time() -> None:
    async def block(idle: IdleTimeout) -> None:
        idle.arm(1000)
        idle.arm(0.01)
        assert idle.seconds == 0.01
        await asyncio.Event().wait()

    assert await expires_in(block)
