"""A time-out that is put off again and again."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from runner_service.idle_timeout import Alarm, alarm


async def rings_in(block: Callable[[Alarm], Awaitable[None]]) -> bool:
    """Whether the alarm ends a block, which waits for it at its end."""
    try:
        async with asyncio.timeout(10), alarm() as bell:
            await block(bell)
            await asyncio.sleep(0.1)
    except TimeoutError:
        return bell.rang
    return False


async def test_a_block_ends_when_the_time_has_come() -> None:
    async def block(bell: Alarm) -> None:
        bell.set(0.01)
        await asyncio.Event().wait()

    assert await rings_in(block)


async def test_an_alarm_that_is_put_off_rings_later() -> None:
    put_off: list[float] = []

    async def block(bell: Alarm) -> None:
        for _ in range(4):
            bell.set(0.05)
            put_off.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.03)
        await asyncio.Event().wait()

    assert await rings_in(block)
    assert asyncio.get_running_loop().time() - put_off[-1] >= 0.05


async def test_an_alarm_that_is_cleared_is_silent_until_it_is_set_again() -> None:
    async def block(bell: Alarm) -> None:
        bell.set(0.01)
        bell.clear()

    async def block_that_goes_on(bell: Alarm) -> None:
        await block(bell)
        await asyncio.sleep(0.03)
        bell.set(0.01)
        await asyncio.Event().wait()

    assert not await rings_in(block)
    assert await rings_in(block_that_goes_on)


async def test_a_time_out_inside_is_not_the_alarms() -> None:
    async def block(bell: Alarm) -> None:
        bell.set(10)
        raise TimeoutError

    assert not await rings_in(block)


async def test_whoever_is_cancelled_is_cancelled() -> None:
    async def block(bell: Alarm) -> None:
        bell.set(10)
        await asyncio.Event().wait()

    task = asyncio.create_task(rings_in(block))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
