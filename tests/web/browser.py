"""A real browser: Debian's Chromium without a screen, by its remote debugging protocol."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

_START_TIMEOUT_SECONDS = 60.0
_WAIT_TIMEOUT_SECONDS = 60.0

# What a page does wrong is kept in the page, from its first moment on.
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
window.faults = [];
window.addEventListener("error", (event) => faults.push(String(event.message)));
window.addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
"""


class Page:
    """One tab."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session

    async def send(self, method: str, **parameters: Any) -> Any:
        """Calls a method of the protocol."""
        return await self._browser.send(method, parameters, self._session)

    async def open(self, url: str) -> None:
        """Opens a page, and waits until it is loaded."""
        await self.send("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete'")

    async def evaluate(self, expression: str) -> Any:
        """Returns the value of an expression, awaited if it is a promise."""
        answer = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"].get("description", answer))
        return answer["result"].get("value")

    async def wait_for(self, condition: str) -> Any:
        """Waits until an expression is true, and returns its value."""
        try:
            async with asyncio.timeout(_WAIT_TIMEOUT_SECONDS):
                while True:
                    with suppress(AssertionError):  # the page is being replaced
                        if value := await self.evaluate(condition):
                            return value
                    await asyncio.sleep(0.02)
        except TimeoutError:
            text = await self.evaluate("document.body?.innerText")
            raise AssertionError(f"never: {condition}\n{text}") from None

    async def text(self) -> str:
        """Returns what a person would read."""
        return str(await self.evaluate("document.body.innerText"))

    async def click(self, text: str) -> None:
        """Presses the button, tab or link with this text, once it is there."""
        pressed = (
            "(() => { const found = [...document.querySelectorAll('button, a, summary')].find("
            f"(each) => each.innerText.trim() === {json.dumps(text)}); found?.click(); return Boolean(found); }})()"
        )
        await self.wait_for(pressed)

    async def type(self, selector: str, text: str) -> None:
        """Sets the value of a field as if it was typed."""
        await self.wait_for(f"document.querySelector({json.dumps(selector)}) !== null")
        await self.evaluate(
            f"(() => {{ const field = document.querySelector({json.dumps(selector)}); "
            f"field.value = {json.dumps(text)}; field.dispatchEvent(new Event('input', {{bubbles: true}})); "
            "field.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    async def press(self, key: str) -> None:
        """Presses a key, as on a keyboard."""
        code = {"Tab": 9, "Enter": 13, "ArrowUp": 38, "ArrowDown": 40}[key]
        given = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.send("Input.dispatchKeyEvent", type="keyDown", **given, **({"text": "\r"} if key == "Enter" else {}))
        await self.send("Input.dispatchKeyEvent", type="keyUp", **given)

    async def press_until(self, key: str, condition: str) -> None:
        """Presses a key again and again until an expression is true."""
        for _ in range(60):
            if await self.evaluate(condition):
                return
            await self.press(key)
        raise AssertionError(f"{key} never reaches: {condition}")

    async def look(self, width: int, height: int, **features: str) -> None:
        """Sets the size of the window, and media features such as `prefers_color_scheme`."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        media = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        await self.send("Emulation.setEmulatedMedia", features=media)

    async def screenshot(self, path: Path) -> None:
        """Writes what is to be seen as a PNG."""
        image = await self.send("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(image["data"]))

    async def scroll_through(self, selector: str = ".rows") -> None:
        """Scrolls from where it is to the end, so that every row is drawn once."""
        scroll = (
            f"(() => {{ const rows = document.querySelector({json.dumps(selector)}); "
            "rows.scrollTop += rows.clientHeight;"
            " return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>"
            " done(rows.scrollTop + rows.clientHeight >= rows.scrollHeight - 1)))); })()"
        )
        for _ in range(1000):
            if await self.evaluate(scroll):
                return
        raise AssertionError("it has no end")

    async def check_clean(self) -> None:
        """Asserts that nothing was refused by the policy of the page, and nothing of it failed."""
        assert await self.evaluate("window.violations") == []
        assert await self.evaluate("window.faults") == []


class Browser:
    """A running browser. Construct it with `connected_browser`."""

    def __init__(self, socket: "aiohttp.ClientWebSocketResponse") -> None:
        self._socket = socket
        self._count = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def send(self, method: str, parameters: Mapping[str, Any], session: str = "") -> Any:
        """Calls a method of the protocol, for the whole browser or for a tab."""
        self._count += 1
        answer = self._answers[self._count] = asyncio.get_running_loop().create_future()
        message = {"id": self._count, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": session} if session else {}))
        return await answer

    async def receive(self) -> None:
        """Takes answers, until the browser ends."""
        async for message in self._socket:
            received = json.loads(message.data)
            if answer := self._answers.pop(received.get("id", 0), None):
                if "error" in received:
                    answer.set_exception(AssertionError(str(received["error"])))
                else:
                    answer.set_result(received["result"])

    async def page(self) -> Page:
        """Opens a tab in a profile of its own."""
        context = await self.send("Target.createBrowserContext", {})
        where = {"url": "about:blank", "browserContextId": context["browserContextId"]}
        target = await self.send("Target.createTarget", where)
        attached = await self.send("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        page = Page(self, attached["sessionId"])
        await page.send("Page.enable")
        await page.send("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
        await page.look(1200, 800, prefers_color_scheme="light")
        return page


@contextmanager
def browser_process(directory: Path) -> Iterator[str]:
    """Starts a browser whose profile is in `directory`, and yields where its protocol is spoken."""
    assert CHROMIUM
    # What it leaves there when it is killed goes with it; a short path, since a socket is in it.
    temporary = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
    process = subprocess.Popen(
        [
            CHROMIUM,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
            *("--no-first-run", "--disable-background-networking", "--disable-extensions", "--remote-debugging-port=0"),
            *("--enable-precise-memory-info", "--js-flags=--expose-gc", "--host-resolver-rules=MAP *.test 127.0.0.1"),
            f"--user-data-dir={directory}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(directory), "TMPDIR": temporary.name},
    )
    try:
        file, give_up_at = directory / "DevToolsActivePort", time.monotonic() + _START_TIMEOUT_SECONDS
        while not file.exists() or len(file.read_text().split()) < 2:
            assert process.poll() is None, "the browser has ended"
            assert time.monotonic() < give_up_at, "the browser does not start"
            time.sleep(0.05)
        port, path = file.read_text().split()
        yield f"ws://127.0.0.1:{port}{path}"
    finally:
        process.kill()
        process.wait()
        temporary.cleanup()


@asynccontextmanager
async def connected_browser(address: str) -> AsyncIterator[Browser]:
    """Connects to a running browser."""
    async with aiohttp.ClientSession() as http, http.ws_connect(address, max_msg_size=0) as socket:
        browser = Browser(socket)
        receiving = asyncio.create_task(browser.receive())
        try:
            yield browser
        finally:
            receiving.cancel()
