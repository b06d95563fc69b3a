"""Searches: by name and by text, the same everywhere."""

import asyncio
import contextlib

import pytest
from tests.executors.recorder import output

from runner_service.executors.protocol import FileError, GrepMatch, Sandbox

TREE = """
    mkdir -p src/app/deep .github/workflows .git/hooks "with space"
    touch top.py src/app/main.py src/app/deep/x.py src/app/readme.md .env src/.hidden.py "with space/ünï.py"
    touch .github/workflows/ci.yml .git/hooks/hook.py src/a.ts src/b.js
"""


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.py", "/", ["src/app/deep/x.py", "src/app/main.py", "top.py", "with space/ünï.py"]),
        ("/*.py", "/", ["top.py"]),
        ("src/**/*.py", "/", ["src/app/deep/x.py", "src/app/main.py"]),
        ("**/*.py", "/", ["src/app/deep/x.py", "src/app/main.py", "top.py", "with space/ünï.py"]),
        ("*.py", "src", ["src/app/deep/x.py", "src/app/main.py"]),
        ("app/*.py", "src", ["src/app/main.py"]),
        ("{root}/src/app/*.py", "/", ["src/app/main.py"]),
        ("*.yml", "/", [".github/workflows/ci.yml"]),
        ("**/*.yml", "/", []),
        (".env", "/", [".env"]),
        (".*.py", "/", ["src/.hidden.py"]),
        ("*.{{ts,js}}", "/", ["src/a.ts", "src/b.js"]),
        ("src/[ab].?s", "/", ["src/a.ts", "src/b.js"]),
        ("src/[!a].?s", "/", ["src/b.js"]),
        ("src/app", "/", []),
        ("*.PY", "/", []),
    ],
)
async def test_a_glob_finds_what_it_says(sandbox: Sandbox, pattern: str, path: str, expected: list[str]) -> None:
    await output(sandbox, TREE)
    pattern = pattern.replace("{root}", sandbox.root).replace("{{", "{").replace("}}", "}")
    found = await sandbox.glob(pattern, path)
    assert [entry.path.removeprefix(sandbox.root + "/") for entry in found.items] == expected
    assert not found.truncated


@pytest.mark.parametrize("pattern", ["../*", "", "/", "a/../b"])
async def test_a_glob_that_makes_no_sense_is_refused(sandbox: Sandbox, pattern: str) -> None:
    with pytest.raises(FileError) as refused:
        await sandbox.glob(pattern)
    assert refused.value.code == "invalid"


async def test_a_glob_that_finds_too_many_says_so(sandbox: Sandbox) -> None:
    await output(sandbox, "mkdir many; cd many; seq 10050 | xargs touch")
    found = await sandbox.glob("*")
    assert (len(found.items), found.truncated) == (10_000, True)
    assert found.why


async def test_grep_finds_literal_text_with_its_line(sandbox: Sandbox) -> None:
    await output(sandbox, r"mkdir d; printf 'one\na.b(c)\r\nthree a.b(c)' > d/x.txt; printf 'aXb(c)\n' > y.txt")
    found = await sandbox.grep("a.b(c)")
    path = f"{sandbox.root}/d/x.txt"
    assert found.items == [GrepMatch(path, 2, "a.b(c)"), GrepMatch(path, 3, "three a.b(c)")]
    assert not found.truncated


@pytest.mark.parametrize(
    ("include", "path", "expected"),
    [
        ("", "/", [".env", "src/a.py", "src/b.md", "src/c/d.py"]),
        ("*.py", "/", ["src/a.py", "src/c/d.py"]),
        ("src/*.py", "/", ["src/a.py"]),
        ("*.py", "src/c", ["src/c/d.py"]),
        ("*.{py,md}", "src", ["src/a.py", "src/b.md", "src/c/d.py"]),
        ("", "src/a.py", ["src/a.py"]),
    ],
)
async def test_grep_looks_only_where_it_is_told(sandbox: Sandbox, include: str, path: str, expected: list[str]) -> None:
    await output(sandbox, "mkdir -p src/c .git")
    await output(sandbox, "for f in src/a.py src/b.md src/c/d.py .env .git/config; do echo needle > $f; done")
    found = await sandbox.grep("needle", path, include=include)
    assert [match.path.removeprefix(sandbox.root + "/") for match in found.items] == expected


async def test_grep_skips_binary_files(sandbox: Sandbox) -> None:
    await output(
        sandbox,
        r"printf 'needle\n\000' > a.bin; (seq 100000; echo needle; printf '\000') > late.bin; echo needle > text",
    )
    assert [match.path for match in (await sandbox.grep("needle")).items] == [f"{sandbox.root}/text"]


async def test_grep_finds_text_beyond_ascii(sandbox: Sandbox) -> None:
    await output(sandbox, r"printf 'größe 漢字\n\377 größe\n' > u.txt")
    assert [match.text for match in (await sandbox.grep("größe")).items] == ["größe 漢字", "\ufffd größe"]


async def test_grep_cuts_huge_lines(sandbox: Sandbox) -> None:
    await output(sandbox, "(head -c 5000000 /dev/zero | tr '\\0' x; echo needle; echo needle) > wide")
    first, second = (await sandbox.grep("needle")).items
    assert (first.line, len(first.text) < 3000) == (1, True)
    assert (second.line, second.text) == (2, "needle")


async def test_grep_stops_at_the_limit_and_says_so(sandbox: Sandbox) -> None:
    await output(sandbox, "for f in a b c; do yes needle | head -5 > $f; done")
    found = await sandbox.grep("needle", limit=7)
    assert (len(found.items), found.truncated) == (7, True)
    exactly = await sandbox.grep("needle", limit=15)
    assert (len(exactly.items), exactly.truncated) == (15, False)


@pytest.mark.parametrize("pattern", ["", "two\nlines", "a\0b"])
async def test_a_pattern_that_no_line_can_hold_is_refused(sandbox: Sandbox, pattern: str) -> None:
    with pytest.raises(FileError) as refused:
        await sandbox.grep(pattern)
    assert refused.value.code == "invalid"


@pytest.mark.parametrize("pattern", ["-e", "--help", "-- x", "$(touch hacked)", "'; touch hacked; '"])
async def test_a_pattern_is_never_an_option_or_a_command(sandbox: Sandbox, pattern: str) -> None:
    await sandbox.write_text("/a.txt", f"x {pattern} y\n")
    assert [match.text for match in (await sandbox.grep(pattern)).items] == [f"x {pattern} y"]
    assert await output(sandbox, "ls -A") == "a.txt\n"


async def test_grep_where_nothing_is_says_so(sandbox: Sandbox) -> None:
    with pytest.raises(FileError) as refused:
        await sandbox.grep("x", "/missing")
    assert refused.value.code == "not_found"


async def test_a_search_that_is_cancelled_stops(sandbox: Sandbox) -> None:
    await output(sandbox, "mkdir many; cd many; seq 3000 | xargs touch")
    search = asyncio.create_task(sandbox.grep("needle"))
    await asyncio.sleep(0)
    search.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await search
    assert search.cancelled()


IGNORING = """
mkdir -p node_modules/lib .venv/bin target/debug src/gen src/kept sub/logs .git/info
printf 'node_modules/\\n.venv\\n/target\\n*.log\\n!keep.log\\nsrc/**/*.tmp\\n\\\\#odd\\n# comment\\n' > .gitignore
printf 'gen/\\n' > src/.gitignore; printf '!logs/a.log\\n' > sub/.ignore; printf 'excluded\\n' > .git/info/exclude
for file in node_modules/lib/a.js .venv/bin/a target/debug/a src/gen/a src/kept/a.tmp src/a.js a.log keep.log \\
  sub/logs/a.log sub/logs/b.log sub/target '#odd' excluded .env; do echo needle > "$file"; done
"""


@pytest.mark.parametrize(
    ("path", "include_ignored", "expected"),
    [
        ("/", False, [".env", "keep.log", "src/a.js", "sub/logs/a.log", "sub/target"]),
        ("/sub", False, ["sub/logs/a.log", "sub/target"]),
        ("/node_modules/lib", False, ["node_modules/lib/a.js"]),
        ("/src", True, ["src/a.js", "src/gen/a", "src/kept/a.tmp"]),
    ],
)
async def test_searches_heed_ignore_files_unless_asked_not_to(
    sandbox: Sandbox, path: str, include_ignored: bool, expected: list[str]
) -> None:
    await output(sandbox, IGNORING)
    found = await sandbox.grep("needle", path, include_ignored=include_ignored)
    assert [each.path.removeprefix(f"{sandbox.root}/") for each in found.items] == expected
    globbed = await sandbox.glob("[a-zA-Z.]*", path, include_ignored=include_ignored)
    names = [each.path.removeprefix(f"{sandbox.root}/") for each in globbed.items]
    assert [each for each in names if "ignore" not in each] == [each for each in expected if each != ".env"]


async def test_everything_is_found_when_asked_for(sandbox: Sandbox) -> None:
    await output(sandbox, IGNORING)
    assert len((await sandbox.grep("needle", include_ignored=True)).items) == 14


@pytest.mark.parametrize("pattern", ["[", "**/a/" * 45 + "z", "*a" * 400, "!", "/", "\\", "[a-\\]", "x" * 100_000])
async def test_a_strange_ignore_file_hides_nothing_else(sandbox: Sandbox, pattern: str) -> None:
    await sandbox.write_text("/.gitignore", f"{pattern}\nhidden\n")
    await output(sandbox, "mkdir -p a/a/a/a; echo needle > a/a/a/a/file; echo needle > hidden")
    assert [each.path for each in (await sandbox.grep("needle")).items] == [f"{sandbox.root}/a/a/a/a/file"]
