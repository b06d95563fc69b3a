"""The contrast of every pair of colours that the page uses, in both themes, by the formula of WCAG 2."""

import re

import pytest

from runner_service.web.html_file import static_file

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
