"""The contrast of every pair of colours that the page uses, in both themes, by the formula of WCAG 2."""

import re
from itertools import product
from pathlib import Path

import pytest
from tests.web.browser import Page, needs_browser

from runner_service.v1 import execution_event_pb2 as event_pb2
from runner_service.web.html_file import html_file, static_file

MIN_TEXT, MIN_SHAPE = 4.5, 3.0
WORDS = ("text", "soft", "accent", "good", "bad", "warn", "ask", "cyan")
BACKS = ("back", "raised")
TINTS = ("add", "del", "line", "back-warn", "back-accent", "back-ask", "back-cyan")
SPANS = ("model", "tool", "wait", "queue", "soft")  # that of a sub-agent has its outline in --soft


def colours(theme: str) -> dict[str, str]:
    css = static_file("style.css")
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    found = re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", light if theme == "light" else light + dark)
    return dict(found)


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    digits = "".join(each * 2 for each in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read_on_what_is_behind_it(theme: str) -> None:
    known = colours(theme)
    pairs = [(word, back) for word in WORDS for back in BACKS]
    pairs += [("text", tint) for tint in TINTS] + [("back", "accent"), ("back", "text"), ("accent", "del")]
    assert {f"{one} on {other}": round(contrast(known[one], known[other]), 2) for one, other in pairs
            if contrast(known[one], known[other]) < MIN_TEXT} == {}  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_spans_of_the_timeline_stand_out(theme: str) -> None:
    known = colours(theme)
    assert {each: round(contrast(known[each], known["raised"]), 2) for each in SPANS
            if contrast(known[each], known["raised"]) < MIN_SHAPE} == {}  # fmt: skip


def test_the_colours_of_the_painter_are_those_of_the_page() -> None:
    painter = static_file("colours.js")
    for name, theme in (("LIGHT_BACK", "light"), ("DARK_BACK", "dark")):
        values = re.search(rf"{name} = \[(.*?)\]", painter)
        assert values
        assert luminance("#" + "".join(f"{int(each, 16):02x}" for each in values[1].split(", "))) == luminance(
            colours(theme)["back"]
        )


PALETTE_BEHIND = ["49", *(f"4{number}" for number in range(8)), "101", "107"]
OTHERS_BEHIND = [f"48;5;{number}" for number in (0, 16, 21, 46, 101, 145, 196, 231, 240, 255)] + ["48;2;119;119;119"]


def coloured_pairs(backs: list[str]) -> list[str]:
    """Every kind of colour that a terminal has for an `x`, on each of these behind it."""
    eight = [f"3{number}" for number in range(8)] + [f"9{number}" for number in range(8)]
    indexed = [f"38;5;{number}" for number in (0, 15, *range(16, 256, 5))]
    true = [f"38;2;{red};{green};{blue}" for red, green, blue in product((0, 90, 255), repeat=3)]
    return [f"\x1b[0;{back};{front}mx" for back in backs for front in ("39", *eight, *indexed, *true)]


PAIRS_IN_SIGHT = """
const hex = (colour) => "#" + colour.match(/[0-9]+/g).slice(0, 3)
  .map((part) => Number(part).toString(16).padStart(2, "0")).join("");
const shown = [...document.querySelectorAll(".row.out span")].filter((each) => each.innerText === "x");
shown.map((each) => {
  let behind = each;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  return [hex(getComputedStyle(each).color), hex(getComputedStyle(behind).backgroundColor)];
})"""


@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("backs", [PALETTE_BEHIND, OTHERS_BEHIND], ids=["palette", "others"])
async def test_every_colour_of_a_command_can_be_read(backs: list[str], theme: str, page: Page, tmp_path: Path) -> None:
    sent = coloured_pairs(backs)
    call = event_pb2.ToolCallStarted(tool_call_id="c", name="execute")
    output = event_pb2.ToolOutput(tool_call_id="c", stdout="".join(sent).encode())
    events = [
        event_pb2.ExecutionEvent(sequence=1, tool_call_started=call),
        event_pb2.ExecutionEvent(sequence=2, tool_output=output),
    ]
    file = tmp_path / "colours.html"
    file.write_text(html_file("c", events))
    await page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    await page.open(file.as_uri())
    await page.wait_for("document.querySelector('.row.out span') !== null")
    pairs = await page.evaluate(PAIRS_IN_SIGHT)

    assert len(pairs) == len(sent) - ("49" in backs), "only what has neither colour has no element"
    assert {f"{one} on {other}": round(contrast(one, other), 2) for one, other in pairs
            if contrast(one, other) < MIN_TEXT} == {}  # fmt: skip
