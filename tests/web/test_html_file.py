"""One execution as an HTML file, opened from a disk in a real browser."""

import asyncio
import base64
import subprocess
import sys
from pathlib import Path

from tests.running import StartService, command, turn
from tests.web.browser import Page, needs_browser
from tests.web.hostile import HOSTILE

from runner_service.v1 import execution_event_pb2 as event_pb2
from runner_service.web.html_file import html_file

pytestmark = needs_browser


async def test_a_run_is_a_file_that_a_browser_shows_without_a_network(
    start: StartService, page: Page, tmp_path: Path
) -> None:
    colours = r"printf 'a \033[31mred\033[0m word\n10%%\r20%%\rdone\n'; seq 100"
    turns = [
        turn(
            "First a look.", command(colours), ("write_todos", {"todos": [{"content": "Plan it", "status": "pending"}]})
        ),
        turn("", ("task", {"description": "help", "subagent_type": "general-purpose"})),
        turn("All is done."),
    ]
    script = {"turns": turns, "sub_agents": [{"turns": [turn("I help.")]}]}
    client = await start(script)
    await client.execute(execution_id="a")
    shown = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "runner_service", "events", "a", "--html"],
        env={"STATE_DIR": str(tmp_path / "state"), "PATH": "/usr/bin"},
        capture_output=True,
        check=True,
    )
    file = tmp_path / "run.html"
    file.write_bytes(shown.stdout)

    await page.send("Network.enable")
    await page.send(
        "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
    )
    await page.open(file.as_uri())
    await page.wait_for("document.querySelector('.row.fold') !== null")
    await page.evaluate("document.querySelector('.row.fold').click()")
    await page.evaluate("document.querySelector('.rows').scrollTop = 0")
    await page.wait_for("document.querySelector('.fg1') !== null")
    text = await page.text()

    assert "First a look." in text
    assert "a red word" in text
    assert "\ndone\n" in text, "a carriage return goes back to the beginning of the line"
    assert "▾ show less" in text
    assert "succeeded" in text
    assert await page.evaluate("document.querySelector('.fg1').innerText") == "red"
    assert await page.evaluate("document.querySelectorAll('.bars rect').length") > 3
    await page.click("Plan")
    assert "Plan it" in await page.text()
    await page.check_clean()


def hostile_events() -> list[event_pb2.ExecutionEvent]:
    events: list[event_pb2.ExecutionEvent] = []

    def add(**fields: object) -> None:
        event = event_pb2.ExecutionEvent(execution_id="h", sequence=len(events) + 1, **fields)  # type: ignore[arg-type]  # one of its events
        event.create_time.FromSeconds(1_790_000_000 + len(events))
        events.append(event)

    add(started=event_pb2.Started(mode="local", model=event_pb2.ModelInfo(provider="scripted", name=HOSTILE[0])))
    for number, text in enumerate(HOSTILE):
        add(text_delta=event_pb2.TextDelta(message_id=f"m{number}", text=text))
        add(reasoning_delta=event_pb2.ReasoningDelta(message_id=f"r{number}", text=text))
        call = event_pb2.ToolCallStarted(tool_call_id=f"c{number}", name=text[:60])
        call.arguments.update({"command": text, text[:50]: [text, {"deep": text}]})
        add(tool_call_started=call)
        add(tool_output=event_pb2.ToolOutput(tool_call_id=f"c{number}", stdout=text.encode("utf-8")))
        add(tool_output=event_pb2.ToolOutput(tool_call_id=f"c{number}", stderr=text.encode("latin-1", "replace")))
        add(tool_call_finished=event_pb2.ToolCallFinished(tool_call_id=f"c{number}", result=text))
        add(notice=event_pb2.Notice(code=text[:40], text=text))
        asked = event_pb2.ApprovalRequested(tool_call_id=f"a{number}", name=text[:40], reason=text, diff=f"+{text}")
        add(approval_requested=asked)
        add(todos_updated=event_pb2.TodosUpdated(todos=[event_pb2.Todo(content=text)]))
    add(
        finished=event_pb2.Finished(
            state=event_pb2.STATE_FAILED, error=event_pb2.ExecutionError(code="X", message=HOSTILE[1])
        )
    )
    return events


async def test_what_is_folded_is_not_there_until_it_is_opened(page: Page, tmp_path: Path) -> None:
    event = event_pb2.ExecutionEvent(sequence=1, tool_call_started=event_pb2.ToolCallStarted(tool_call_id="c"))
    output = event_pb2.ToolOutput(tool_call_id="c", stdout=b"".join(b"%d\n" % number for number in range(30)))
    file = tmp_path / "folded.html"
    file.write_text(html_file("f", [event, event_pb2.ExecutionEvent(sequence=2, tool_output=output)]))
    await page.open(file.as_uri())
    await page.wait_for("document.querySelectorAll('.row.out').length === 12")
    await page.click("▸ 18 more lines above")
    await page.wait_for("document.querySelectorAll('.row.out').length === 30")
    await page.click("▾ show less")
    await page.wait_for("document.querySelectorAll('.row.out').length === 12")


async def test_hostile_text_stays_text(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "hostile.html"
    file.write_text(html_file("</title><script>window.owned=1</script>", hostile_events()), encoding="utf-8")
    await page.open(file.as_uri())
    await page.wait_for("document.querySelector('.row') !== null")

    await page.scroll_through()
    for tab in ("Plan", "Changes", "Tokens", "Transcript"):
        await page.click(tab)

    assert await page.evaluate("window.owned === undefined")
    allowed = {"META", "TITLE", "STYLE", "SCRIPT", "BODY", "HTML", "HEAD"}
    names = set(await page.evaluate("[...new Set([...document.querySelectorAll('*')].map((each) => each.tagName))]"))
    assert not names & {"IMG", "IFRAME", "A", "FORM", "INPUT", "BASE", "LINK", "B"}, names - allowed
    assert await page.evaluate("document.querySelectorAll('script').length") == 3
    assert "another title" not in await page.text()
    assert "\u202e" not in await page.text()
    await page.check_clean()


def test_the_file_has_no_text_outside_of_its_data() -> None:
    events = hostile_events()
    text = html_file("h", events)
    assert "window.owned" not in text
    assert base64.b64encode(b"window").decode()[:6] not in text[: text.index('id="run"')]
