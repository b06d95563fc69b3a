"""Waiting for something to happen, but not for ever."""

import asyncio

import pytest

from runner_service.news import News


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
