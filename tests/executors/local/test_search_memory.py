"""What a search holds in memory does not depend on what it finds."""

import tracemalloc
from pathlib import Path

from runner_service.executors.local.deadline import Search
from runner_service.executors.local.grep import Query, grep_files
from runner_service.executors.local.paths import Root


def test_grep_keeps_no_more_of_a_file_than_it_shows(tmp_path: Path) -> None:
    (tmp_path / "many").write_bytes(b"needle\n" * 200_000)
    tracemalloc.start()
    try:
        found = grep_files(Root(str(tmp_path)), Query("needle", "/", "", 3, include_ignored=False), Search(), None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert ([each.line for each in found.items], found.truncated) == ([1, 2, 3], True)
    assert peak < 8 * 2**20


def test_a_search_that_is_stopped_reads_no_further(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"needle\n")
    search = Search()
    search.stop()

    found = grep_files(Root(str(tmp_path)), Query("needle", "/file", "", 3, include_ignored=False), search, None)

    assert (list(found.items), found.truncated) == ([], True)
