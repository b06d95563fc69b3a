"""Whoever follows the pages word by word sees what they say."""

from pathlib import Path

import pytest
from tests.docs.pages import REPOSITORY
from tests.docs.reader import follow


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "docs/operations.md"])
async def test_following_a_page_shows_what_it_says(page: str, tmp_path: Path) -> None:
    await follow(REPOSITORY / page, tmp_path)
