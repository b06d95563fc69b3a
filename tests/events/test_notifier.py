"""Waiting for something to happen, but not for ever."""

import asyncio

import pytest

from runner_service.events.notifier import News


async def test_news_wake_all_who_wait_and_nobody_later() -> None:
    news = News()
    waiting = [asyncio.create_task(news.wait(10.0)) for _ in range(3)]
    await asyncio.sleep(0)
    news.spread()

    assert await asyncio.gather(*waiting) == [True, True, True]
    assert await news.wait(0.01) is False


async def test_whoever_gives_up_is_forgotten() -> None:
    news = News()
    waiting = asyncio.create_task(news.wait(10.0))
    await asyncio.sleep(0)
    waiting.cancel()
    news.spread()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not news._waiting


async def test_each_waits_for_as_long_as_it_has_patience() -> None:
    news = News()
    loop = asyncio.get_running_loop()
    began = loop.time()
    patient = asyncio.create_task(news.wait(10.0))
    await asyncio.sleep(0)

    assert not any(await asyncio.gather(news.wait(0.1), news.wait(0.05)))
    assert loop.time() - began >= 0.1
    assert await news.wait(0.01) is False
    assert not patient.done()
    news.spread()
    assert await patient is True
