"""The page with much in it: only what is in sight exists. Prints the figures of docs/performance.md."""

import time
from pathlib import Path
from typing import Any

import pytest
from tests.running import StartService, turn
from tests.web.browser import Page, needs_browser
from tests.web.test_page import ended
from tests.web.test_security import web_address

from runner_service.storage.sqlite.backend import sqlite_storage

pytestmark = [needs_browser, pytest.mark.long, pytest.mark.timeout(280)]

ON = {"WEB_ADDRESS": "127.0.0.1:0"}
EVENTS = 100_000
EXECUTIONS = 10_000

_FRAMES = """new Promise((done) => {
  const rows = document.querySelector('.rows'), times = []; let before = performance.now();
  rows.scrollTop = 0;
  const step = () => {
    const now = performance.now(); times.push(now - before); before = now; rows.scrollTop += rows.scrollHeight / 200;
    if (times.length < 120) requestAnimationFrame(step); else done(times.sort((a, b) => a - b)[114]);
  };
  requestAnimationFrame(step);
})"""


async def figures(page: Page) -> dict[str, Any]:
    """Returns what the browser measures: milliseconds and bytes."""
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    return {
        "first paint, ms": round(await page.wait_for(paint)),
        "95th percentile of a frame while scrolling, ms": round(await page.evaluate(_FRAMES)),
        "memory, MB": round(await page.evaluate("(gc(), performance.memory.usedJSHeapSize)") / 1e6, 1),
        "elements": await page.evaluate("document.querySelectorAll('*').length"),
    }


async def test_an_execution_of_a_hundred_thousand_events(start: StartService, page: Page) -> None:
    words = "\n".join(" ".join(f"word{line}.{number}" for number in range(10)) for line in range(EVENTS // 10))
    client = await start([turn(words)], **ON)
    await client.execute(execution_id="large")
    await page.open(f"http://{web_address(client)}/#/execution/large")
    began = time.monotonic()
    await page.wait_for("document.querySelector('.state.succeeded') !== null")
    loaded = time.monotonic() - began

    found = await figures(page)

    print(f"\n{EVENTS:,} events: shown after {loaded:.1f} s; {found}")
    await page.wait_for("document.querySelector('.summary').innerText.includes('100,0')")
    assert found["elements"] < 500
    await page.check_clean()


async def test_a_list_of_ten_thousand_executions(start: StartService, page: Page, tmp_path: Path) -> None:
    async with sqlite_storage(tmp_path / "state") as storage:
        for first in range(0, EXECUTIONS, 1000):
            await storage.log.append([ended(number, f"agent-{number}") for number in range(first, first + 1000)])
    client = await start([turn("Hi.")], **ON)
    await page.open(f"http://{web_address(client)}/")
    await page.wait_for("document.querySelectorAll('.execution-row').length > 20")

    shown = f"document.querySelector('.list .meta').innerText.startsWith('{EXECUTIONS:,} shown')"
    to_end = "(() => { const rows = document.querySelector('.rows'); rows.scrollTop = rows.scrollHeight; })()"
    await page.wait_for(f"({to_end}, {shown})")
    found = await figures(page)

    print(f"\n{EXECUTIONS:,} executions: {found}")
    assert found["elements"] < 2000
    await page.type("input[name=Name]", "agent-7777")
    await page.wait_for("document.querySelectorAll('.execution-row').length === 1")
    await page.check_clean()
