"""The page by the keyboard alone, and as a screen reader has it."""

import pytest
from tests.running import StartService, command, turn
from tests.web.browser import Page, needs_browser
from tests.web.test_page import ON, Asked, has
from tests.web.test_security import web_address

from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = needs_browser

NAMED = {"button", "link", "textbox", "searchbox", "combobox", "table", "columnheader", "tab", "navigation", "article"}


async def unnamed(page: Page) -> list[str]:
    """Returns what a screen reader would announce by its role alone."""
    tree = await page.send("Accessibility.getFullAXTree")
    return [
        node["role"]["value"]
        for node in tree["nodes"]
        if not node.get("ignored")
        and node["role"]["value"] in NAMED
        and not node.get("name", {}).get("value", "").strip()
    ]


async def test_everything_has_a_name_and_the_keyboard_leads_from_the_list_to_a_decision(
    start: StartService, page: Page
) -> None:
    client = await start([turn("", command("echo model")), turn("Done.")], **ON)
    asked = Asked(client, "by-keyboard")
    await page.open(f"http://{web_address(client)}/")
    await page.wait_for(f"{has('echo model')} && {has('by-keyboard')} && {has('1 shown')}")
    assert await unnamed(page) == []
    tree = await page.send("Accessibility.getFullAXTree")
    roles = {node["role"]["value"] for node in tree["nodes"] if not node.get("ignored")}
    assert {"table", "row", "columnheader", "cell", "navigation"} <= roles

    await page.press_until("Tab", "document.activeElement.matches('.rows')")
    await page.press("ArrowDown")
    assert await page.evaluate("document.activeElement.innerText") == "by-keyboard"
    await page.press("Enter")
    await page.wait_for(
        "location.hash === '#/execution/by-keyboard' && document.querySelectorAll('.approval').length === 1"
    )
    await page.wait_for(has("waits for approval"))
    assert await unnamed(page) == []
    await page.press_until("Tab", "document.activeElement.innerText === 'Approve'")
    await page.press("Enter")

    assert (await asked.ended()).state == event_pb2.STATE_SUCCEEDED
    await page.press_until("Tab", "document.activeElement.innerText === 'Tokens'")
    await page.press("Enter")
    await page.wait_for("document.querySelector('[aria-selected=true]').innerText === 'Tokens'")
    await page.evaluate("location.hash = '#/replicas'")
    await page.wait_for(has("loop lag"))
    assert await unnamed(page) == []
    await page.check_clean()


@pytest.mark.parametrize("width", [320, 420, 768])
async def test_no_screen_is_wider_than_a_narrow_window(start: StartService, page: Page, width: int) -> None:
    client = await start([turn("", command("seq 3")), turn("Done.")], **ON)
    await client.execute(execution_id="an-execution-with-a-name-that-is-rather-long-for-a-narrow-screen")
    await page.look(width, 700)
    for place, shown in (
        ("", ".execution-row"),
        ("replicas", ".usage tbody tr"),
        ("execution/an-execution-with-a-name-that-is-rather-long-for-a-narrow-screen", "main.execution .row.good"),
    ):
        await page.open(f"http://{web_address(client)}/#/{place}")
        await page.wait_for(f"document.querySelector('{shown}') !== null")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, place
    await page.check_clean()
