from collections.abc import AsyncIterator, Iterator

import pytest
from tests.web.browser import Browser, Page, browser_process, connected_browser


@pytest.fixture(scope="session")
def browser_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One browser for all tests of a process: it takes a second to start."""
    with browser_process(tmp_path_factory.mktemp("browser")) as address:
        yield address


@pytest.fixture
async def browser(browser_address: str) -> AsyncIterator[Browser]:
    async with connected_browser(browser_address) as browser:
        yield browser


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    page = await browser.page()
    yield page
    await page.send("Page.close")
