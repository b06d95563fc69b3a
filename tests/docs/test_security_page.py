"""The page of promises: each is held by a test that exists."""

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "security.md"


def test_every_promise_links_to_a_test_that_exists() -> None:
    promises = PAGE.read_text().partition("## What is promised")[2].partition("## What is not promised")[0]
    items = re.split(r"\n- ", promises)[1:]
    assert len(items) > 10
    for item in items:
        links = re.findall(r"\[test\]\(([^)]+)\)", item)
        assert links, item
        assert all("def test_" in (PAGE.parent / link).read_text() for link in links), item
