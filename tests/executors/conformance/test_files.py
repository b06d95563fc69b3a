"""Files: read, written, edited, listed, moved in and out, each whole or not at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.executors.recorder import output

from runner_service.executors.protocol import BinaryFile, FileError, Sandbox, TextLines


async def text_of(sandbox: Sandbox, path: str) -> str:
    content = await sandbox.read_text(path, limit=1_000_000)
    assert isinstance(content, TextLines)
    return content.text


async def test_what_is_written_is_read(sandbox: Sandbox) -> None:
    await sandbox.write_text("/notes.txt", "one\ntwo\nthree")
    assert await sandbox.read_text("/notes.txt") == TextLines("one\ntwo\nthree", 1, 3)
    assert await output(sandbox, "cat notes.txt") == "one\ntwo\nthree"


async def test_a_command_and_the_file_tools_see_the_same_files(sandbox: Sandbox) -> None:
    await output(sandbox, "mkdir -p a/b && echo from a command > a/b/c.txt")
    assert await text_of(sandbox, "a/b/c.txt") == "from a command\n"


@pytest.mark.parametrize(
    "path", ["/a.txt", "a.txt", "./a.txt", "//a.txt", "/sub/../a.txt", "{root}/a.txt", "{root}//./a.txt"]
)
async def test_a_slash_and_the_real_root_both_mean_the_root(sandbox: Sandbox, path: str) -> None:
    await output(sandbox, "echo here > a.txt; mkdir sub")
    assert await text_of(sandbox, path.format(root=sandbox.root)) == "here\n"


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [
        (0, 2, TextLines("1\n2\n", 1, 5)),
        (3, 10, TextLines("4\n5", 4, 5)),
        (4, 1, TextLines("5", 5, 5)),
        (5, 1, TextLines("", 0, 5)),
        (99, 1, TextLines("", 0, 5)),
        (1, 0, TextLines("", 0, 5)),
    ],
)
async def test_a_window_of_lines_is_read(sandbox: Sandbox, offset: int, limit: int, expected: TextLines) -> None:
    await sandbox.write_text("/five.txt", "1\n2\n3\n4\n5")
    assert await sandbox.read_text("/five.txt", offset=offset, limit=limit) == expected


async def test_an_empty_file_is_an_empty_window(sandbox: Sandbox) -> None:
    await sandbox.write_text("/empty", "")
    assert await sandbox.read_text("/empty") == TextLines("", 0, 0)


async def test_line_ends_are_read_as_they_are(sandbox: Sandbox) -> None:
    await output(sandbox, r"printf 'a\r\nb\rc\n' > mixed.txt")
    assert await sandbox.read_text("/mixed.txt") == TextLines("a\r\nb\rc\n", 1, 2)


async def test_what_is_not_utf_8_becomes_replacement_characters(sandbox: Sandbox) -> None:
    await output(sandbox, r"printf 'caf\351 ol\351\n' > latin1.txt")
    assert await text_of(sandbox, "/latin1.txt") == "caf\ufffd ol\ufffd\n"


async def test_the_end_of_a_large_file_is_read_without_the_rest(sandbox: Sandbox) -> None:
    await output(sandbox, "seq 300000 > long.txt")
    assert await sandbox.read_text("/long.txt", offset=299_998) == TextLines("299999\n300000\n", 299_999, 300_000)


async def test_an_edit_that_would_make_a_file_huge_is_refused(sandbox: Sandbox) -> None:
    await output(sandbox, "head -c 100000 /dev/zero | tr '\\0' x > many")
    with pytest.raises(FileError, match="by a command") as refused:
        await sandbox.edit_text("/many", "x", "y" * 1000, replace_all=True)
    assert refused.value.code == "too_large"


async def test_lines_too_long_for_a_reader_are_refused_with_advice(sandbox: Sandbox) -> None:
    await output(sandbox, "head -c 20000000 /dev/zero | tr '\\0' x > wide.txt")
    with pytest.raises(FileError, match="grep") as refused:
        await sandbox.read_text("/wide.txt")
    assert refused.value.code == "too_large"


@pytest.mark.parametrize(
    ("script", "path", "media_type"),
    [
        (r"printf '\211PNG\r\n\032\n\000\000' > a.png", "a.png", "image/png"),
        (r"printf '\177ELF\000\001' > program", "program", "application/octet-stream"),
        (r"printf '%%PDF-1.7\n\342\343\317\323\n%099d' 0 > a.pdf", "a.pdf", "application/pdf"),
    ],
)
async def test_binary_files_are_announced_and_not_dumped(
    sandbox: Sandbox, script: str, path: str, media_type: str
) -> None:
    await output(sandbox, script)
    size = int(await output(sandbox, f"wc -c < {path}"))
    assert await sandbox.read_text(path) == BinaryFile(size, media_type)


async def test_an_svg_is_text(sandbox: Sandbox) -> None:
    await sandbox.write_text("/a.svg", "<svg/>")
    assert await text_of(sandbox, "/a.svg") == "<svg/>"


@pytest.mark.parametrize(
    "name", ["with space.txt", "ünïcode 漢字 🦊.txt", "-dash", "new\nline", "*?[x]", "'quotes\"", "." * 3]
)
async def test_any_name_works(sandbox: Sandbox, name: str) -> None:
    await sandbox.write_text(f"/dir/{name}", "content")
    assert await text_of(sandbox, f"/dir/{name}") == "content"
    assert [entry.path for entry in await sandbox.list_directory("/dir")] == [f"{sandbox.root}/dir/{name}"]
    assert await sandbox.edit_text(f"/dir/{name}", "content", "other") == 1
    await sandbox.delete(f"/dir/{name}")
    assert await sandbox.list_directory("/dir") == []


async def test_a_name_that_is_not_utf_8_breaks_no_list(sandbox: Sandbox) -> None:
    await output(sandbox, r"touch \"$(printf 'a\377b')\" plain || true; touch $(printf 'a\377b') plain")
    names = [entry.path.rpartition("/")[2] for entry in await sandbox.list_directory("/")]
    assert "a\ufffdb" in names
    assert "plain" in names


async def test_directories_on_the_way_are_made(sandbox: Sandbox) -> None:
    await sandbox.write_text("/deep/er/still/a.txt", "x")
    assert await output(sandbox, "cat deep/er/still/a.txt") == "x"


async def test_a_file_keeps_its_mode(sandbox: Sandbox) -> None:
    await output(sandbox, "echo '#!/bin/sh' > tool; chmod 750 tool")
    await sandbox.write_text("/tool", "#!/bin/sh\necho one\n")
    await sandbox.edit_text("/tool", "one", "two")
    assert await output(sandbox, "stat -c %a tool; ./tool") == "750\ntwo\n"


async def test_a_new_file_has_the_mode_that_a_command_would_give_it(sandbox: Sandbox) -> None:
    await sandbox.write_text("/by-tool", "")
    assert await output(sandbox, "touch by-command; stat -c %a by-tool by-command | uniq | wc -l") == "1\n"


async def test_writing_through_a_symlink_changes_its_target(sandbox: Sandbox) -> None:
    await output(sandbox, "mkdir d; echo old > d/target; ln -s d/target link; ln -s $PWD/d absolute")
    await sandbox.write_text("/link", "new")
    await sandbox.write_text("/absolute/other", "also")
    assert await output(sandbox, "cat d/target d/other; test -L link && echo still a link") == "newalsostill a link\n"


async def test_a_reader_sees_the_old_or_the_new_content_and_nothing_between(sandbox: Sandbox) -> None:
    contents = ["a" * 300_000, "b" * 300_000]
    await sandbox.write_text("/flip", contents[0])

    async def write() -> None:
        for turn in range(20):
            await sandbox.write_text("/flip", contents[turn % 2])

    writer = asyncio.create_task(write())
    while not writer.done():
        assert await text_of(sandbox, "/flip") in contents
    await writer


async def test_a_write_that_finds_no_space_leaves_the_old_file(sandbox: Sandbox) -> None:
    if (
        await output(sandbox, "mkdir full; mount -t tmpfs -o size=64k tmpfs full 2>/dev/null && echo mounted || true")
        == ""
    ):
        pytest.skip("only root can mount a small file system")
    try:
        await sandbox.write_text("/full/a", "old")
        with pytest.raises(FileError) as refused:
            await sandbox.write_text("/full/a", "x" * 200_000)
        assert refused.value.code == "no_space"
        assert await output(sandbox, "cat full/a; ls -A full | wc -l") == "old1\n"
    finally:
        await output(sandbox, "umount full")


async def test_an_edit_replaces_the_one_place(sandbox: Sandbox) -> None:
    await sandbox.write_text("/a.py", "x = 1\ny = 2\n")
    assert await sandbox.edit_text("/a.py", "y = 2", "y = 3") == 1
    assert await text_of(sandbox, "/a.py") == "x = 1\ny = 3\n"


async def test_an_edit_of_all_says_how_many(sandbox: Sandbox) -> None:
    await sandbox.write_text("/a.py", "a b a b a")
    assert await sandbox.edit_text("/a.py", "a", "c", replace_all=True) == 3
    assert await text_of(sandbox, "/a.py") == "c b c b c"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [("twice", "x", "not_unique"), ("absent", "x", "no_match"), ("", "x", "invalid"), ("once", "once", "invalid")],
)
async def test_an_edit_that_is_not_clear_changes_nothing(sandbox: Sandbox, old: str, new: str, code: str) -> None:
    await sandbox.write_text("/a.txt", "twice once twice")
    with pytest.raises(FileError) as refused:
        await sandbox.edit_text("/a.txt", old, new)
    assert refused.value.code == code
    assert await text_of(sandbox, "/a.txt") == "twice once twice"


async def test_an_edit_keeps_dos_line_ends(sandbox: Sandbox) -> None:
    await output(sandbox, r"printf 'a\r\nb\r\nc\r\n' > dos.txt")
    assert await sandbox.edit_text("/dos.txt", "a\nb\n", "a\nnew\nb\n") == 1
    assert await sandbox.edit_text("/dos.txt", "c", "c\nd") == 1
    assert await text_of(sandbox, "/dos.txt") == "a\r\nnew\r\nb\r\nc\r\nd\r\n"


async def test_an_edit_keeps_bytes_that_are_not_utf_8(sandbox: Sandbox) -> None:
    await output(sandbox, r"printf '\377 old \376' > odd")
    await sandbox.edit_text("/odd", "old", "new")
    assert await output(sandbox, r"printf '\377 new \376' | cmp - odd && echo same") == "same\n"


async def test_a_directory_is_listed_in_order(sandbox: Sandbox) -> None:
    await output(
        sandbox,
        "mkdir -p d/sub; printf 12345 > d/b; touch d/a d/.hidden; ln -s b d/link; ln -s sub d/way; ln -s /etc d/out",
    )
    listed = {
        entry.path.removeprefix(sandbox.root): (entry.is_directory, entry.size)
        for entry in await sandbox.list_directory("/d")
    }
    assert list(listed) == ["/d/.hidden", "/d/a", "/d/b", "/d/link", "/d/out", "/d/sub", "/d/way"]
    assert (listed["/d/b"], listed["/d/link"]) == ((False, 5), (False, 5))
    assert (listed["/d/sub"][0], listed["/d/way"][0], listed["/d/out"][0]) == (True, True, False)


async def test_a_listed_file_has_its_time(sandbox: Sandbox) -> None:
    await output(sandbox, "touch -d @1700000000 old")
    assert (await sandbox.list_directory("/"))[0].modified == 1_700_000_000


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("missing", "not_found"),
        ("missing/a", "not_found"),
        ("dir", "is_directory"),
        ("file/a", "not_directory"),
        ("nul\0", "invalid"),
        ("x" * 300, "invalid"),
    ],
)
async def test_a_read_that_fails_says_why(sandbox: Sandbox, path: str, code: str) -> None:
    await output(sandbox, "mkdir dir; touch file")
    with pytest.raises(FileError) as refused:
        await sandbox.read_text(path)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("path", "code"),
    [("dir", "is_directory"), ("/", "is_directory"), ("file/a", "not_directory"), ("fifo", "not_regular")],
)
async def test_a_write_that_fails_says_why(sandbox: Sandbox, path: str, code: str) -> None:
    await output(sandbox, "mkdir dir; touch file; mkfifo fifo")
    with pytest.raises(FileError) as refused:
        await sandbox.write_text(path, "x")
    assert refused.value.code == code


async def test_half_a_surrogate_pair_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(FileError) as refused:
        await sandbox.write_text("/a", "\ud800")
    assert refused.value.code == "invalid"


@pytest.mark.parametrize("target", ["file", "missing"])
async def test_listing_what_is_no_directory_says_so(sandbox: Sandbox, target: str) -> None:
    await output(sandbox, "touch file")
    with pytest.raises(FileError) as refused:
        await sandbox.list_directory(target)
    assert refused.value.code == {"file": "not_directory", "missing": "not_found"}[target]


async def test_delete_removes_files_directories_and_links(sandbox: Sandbox) -> None:
    await output(sandbox, "mkdir -p d/e; touch d/e/f kept; ln -s kept link")
    await sandbox.delete("/link")
    await sandbox.delete("/d")
    assert await output(sandbox, "ls -A") == "kept\n"


@pytest.mark.parametrize(("path", "code"), [("/", "invalid"), ("missing", "not_found"), ("..", "outside_root")])
async def test_a_delete_that_must_not_be_is_refused(sandbox: Sandbox, path: str, code: str) -> None:
    with pytest.raises(FileError) as refused:
        await sandbox.delete(path)
    assert refused.value.code == code


async def pieces(count: int, size: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number % 256]) * size


async def test_a_large_file_goes_up_and_down(sandbox: Sandbox) -> None:
    await sandbox.upload("/in/big.bin", pieces(60, 1_000_000), mode=0o640)
    assert await output(sandbox, "stat -c '%s %a' in/big.bin") == "60000000 640\n"
    downloaded = [len(piece) async for piece in sandbox.download("/in/big.bin")]
    assert sum(downloaded) == 60_000_000
    assert max(downloaded) <= 256 * 1024


async def test_an_upload_that_breaks_off_leaves_nothing(sandbox: Sandbox) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError("the caller went away")

    with pytest.raises(ConnectionError):
        await sandbox.upload("/half", breaking())
    assert await output(sandbox, "ls -A") == ""


async def test_an_upload_that_is_cancelled_leaves_nothing(sandbox: Sandbox) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"more"
            begun.set()
            await asyncio.sleep(0)

    upload = asyncio.create_task(sandbox.upload("/endless", endless()))
    await begun.wait()
    upload.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await upload
    assert await output(sandbox, "ls -A") == ""


@pytest.mark.parametrize(
    ("path", "code"),
    [("missing", "not_found"), ("dir", "is_directory"), ("file/a", "not_directory"), ("fifo", "not_regular")],
)
async def test_a_download_that_fails_says_why(sandbox: Sandbox, path: str, code: str) -> None:
    await output(sandbox, "mkdir dir; touch file; mkfifo fifo")
    with pytest.raises(FileError) as refused:
        [piece async for piece in sandbox.download(path)]
    assert refused.value.code == code


@pytest.mark.parametrize("size", [10, 1_000_000])
@pytest.mark.parametrize(
    ("path", "code"), [("dir", "is_directory"), ("file/a", "not_directory"), ("fifo", "not_regular")]
)
async def test_an_upload_that_fails_says_why_and_leaves_nothing(
    sandbox: Sandbox, path: str, code: str, size: int
) -> None:
    await output(sandbox, "mkdir dir; touch file; mkfifo fifo")
    with pytest.raises(FileError) as refused:
        await sandbox.upload(path, pieces(1, size))
    assert refused.value.code == code
    assert await output(sandbox, "ls -A; ls -A dir") == "dir\nfifo\nfile\n"
