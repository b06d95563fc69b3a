"""Glob patterns and trees that ask for more time than there is."""

from typing import Any

import pytest
from tests.hostile.conftest import Attack
from tests.running import turn

DEEP = "mkdir -p $(printf 'a/%.0s' $(seq 100)) && touch $(printf 'a/%.0s' $(seq 100))x"
LONG_NAME = "touch $(printf 'a%.0s' $(seq 250))"
WIDE = "mkdir -p a/a/a/a/a/a && for d in a a/a a/a/a a/a/a/a; do touch $d/{1..500}; done"

CASES = {
    "globstars over a deep tree": (DEEP, {"pattern": "**/a/" * 8 + "*.py"}),
    "globstars over a deep tree, in grep": (DEEP, {"pattern": "x", "glob": "**/a/" * 8 + "*.py"}),
    "stars in a long name": (LONG_NAME, {"pattern": "*a" * 40 + "*b"}),
    "stars in a long name, in grep": (f"{LONG_NAME}; echo x > $(ls)", {"pattern": "x", "glob": "*a" * 40 + "*b"}),
    "classes between stars": (LONG_NAME, {"pattern": "*[a-z]" * 60 + "!"}),
    "braces that multiply": (WIDE, {"pattern": "{a,b}" * 60}),
    "braces in braces": (WIDE, {"pattern": "{a," * 400 + "b" + "}" * 400}),
    "a range of millions": (WIDE, {"pattern": "{1..9999}{1..9999}"}),
    "many alternatives of globstars": (DEEP, {"pattern": "{" + ",".join(["**/a/**/a/**/b"] * 60) + "}"}),
    "a pattern of a megabyte": (DEEP, {"pattern": "**/a/" * 200_000}),
    "question marks and stars": (LONG_NAME, {"pattern": "?*" * 120 + "b"}),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_glob_keeps_nobody_waiting(attack: Attack, name: str) -> None:
    prepare, arguments = CASES[name]
    tool = "grep" if "in grep" in name else "glob"
    call: tuple[str, dict[str, Any]] = (tool, {"path": "/", **arguments})
    async with attack([turn("", call)], prepare) as target:
        await target.answers()
        await target.cancel()
