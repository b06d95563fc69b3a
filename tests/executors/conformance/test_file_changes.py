"""Changes of files: one after the other, on what is there now, keeping what a file is besides its content."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.executors.recorder import output

from runner_service.executors.protocol import Executor, FileError, Sandbox, SandboxSpec, TextLines

LINES = [f"line {number} of the file" for number in range(40)]


async def text_of(sandbox: Sandbox, path: str, agent: str = "") -> str:
    content = await sandbox.read_text(path, limit=1_000_000, agent=agent)
    assert isinstance(content, TextLines)
    return content.text


async def test_parallel_edits_of_one_file_are_all_kept(sandbox: Sandbox) -> None:
    await sandbox.write_text("/many.txt", "\n".join(LINES))
    await asyncio.gather(*(sandbox.edit_text("/many.txt", f"{line}\n", f"{line}, edited\n") for line in LINES[:-1]))
    assert (await text_of(sandbox, "/many.txt")).count("edited") == len(LINES) - 1


async def test_edits_by_different_spellings_are_all_kept(sandbox: Sandbox) -> None:
    await sandbox.write_text("/sub/many.txt", "\n".join(LINES))
    await output(sandbox, "ln -s sub linked && ln -s sub/many.txt link.txt && ln sub/many.txt hard.txt")
    names = ["/sub/many.txt", "linked/many.txt", "link.txt", "hard.txt", f"{sandbox.root}/sub/../sub/./many.txt"]
    await asyncio.gather(
        *(
            sandbox.edit_text(names[index % len(names)], f"{line}\n", f"{line}, edited\n")
            for index, line in enumerate(LINES[:-1])
        )
    )
    assert (await text_of(sandbox, "/hard.txt")).count("edited") == len(LINES) - 1


async def test_edits_of_executions_that_share_a_root_are_all_kept(executor: Executor) -> None:
    async with (
        executor.open(SandboxSpec("execution-1", session_id="same")) as one,
        executor.open(SandboxSpec("execution-2", session_id="same")) as other,
    ):
        await one.write_text("/many.txt", "\n".join(LINES))
        await asyncio.gather(
            *(
                (one, other)[index % 2].edit_text("/many.txt", f"{line}\n", f"{line}, edited\n")
                for index, line in enumerate(LINES[:-1])
            )
        )
        assert (await text_of(one, "/many.txt")).count("edited") == len(LINES) - 1


@pytest.mark.parametrize("change", ["echo by a command > a.txt", "echo by a command > b && mv b a.txt"])
async def test_a_write_over_a_change_that_the_agent_has_not_seen_is_refused_once_and_shows_it(
    sandbox: Sandbox, change: str
) -> None:
    await sandbox.write_text("/a.txt", "mine", agent="one")
    await output(sandbox, change)
    with pytest.raises(FileError, match="by a command") as refused:
        await sandbox.write_text("/a.txt", "mine again", agent="one")
    assert refused.value.code == "changed"
    assert await text_of(sandbox, "/a.txt") == "by a command\n"
    await sandbox.write_text("/a.txt", "both", agent="one")
    assert await text_of(sandbox, "/a.txt") == "both"


async def test_a_write_over_the_change_of_another_agent_is_refused_and_over_ones_own_is_not(sandbox: Sandbox) -> None:
    await sandbox.write_text("/a.txt", "first")
    assert await text_of(sandbox, "/a.txt", agent="one") == "first"
    assert await text_of(sandbox, "a.txt", agent="two") == "first"
    await sandbox.edit_text("/a.txt", "first", "edited by one", agent="one")
    with pytest.raises(FileError, match="edited by one"):
        await sandbox.write_text("/a.txt", "by two", agent="two")
    await sandbox.write_text("/a.txt", "by one again", agent="one")
    assert await text_of(sandbox, "/a.txt") == "by one again"


async def test_a_file_that_the_agent_never_saw_or_that_is_gone_is_written(sandbox: Sandbox) -> None:
    await output(sandbox, "echo there > old.txt")
    await sandbox.write_text("/old.txt", "new", agent="one")
    await output(sandbox, "rm old.txt")
    await sandbox.write_text("/old.txt", "newer", agent="one")
    assert await text_of(sandbox, "/old.txt") == "newer"


async def test_an_edit_of_text_that_was_changed_meanwhile_shows_what_is_there_now(sandbox: Sandbox) -> None:
    await sandbox.write_text("/a.txt", "alpha\nbeta\n", agent="one")
    await output(sandbox, "sed -i s/beta/gamma/ a.txt")
    with pytest.raises(FileError, match="gamma") as refused:
        await sandbox.edit_text("/a.txt", "beta", "delta", agent="one")
    assert refused.value.code == "no_match"


async def test_a_change_keeps_hard_links_and_extended_attributes(sandbox: Sandbox) -> None:
    await output(sandbox, "echo old > a.txt; ln a.txt twin; echo old > b.txt; chmod 640 a.txt b.txt")
    await output(sandbox, """python3 -c 'import os; os.setxattr("b.txt", "user.kept", b"yes")'""")
    await sandbox.edit_text("/a.txt", "old", "new and longer")
    await sandbox.write_text("/b.txt", "new")
    assert await output(sandbox, "cat twin") == "new and longer\n"
    await sandbox.write_text("/twin", "x")
    assert await output(sandbox, "cat a.txt; stat -c %a:%h a.txt b.txt") == "x640:2\n640:1\n"
    assert await output(sandbox, """python3 -c 'import os; print(os.getxattr("b.txt", "user.kept"))'""") == "b'yes'\n"
    assert await output(sandbox, "ls -A") == "a.txt\nb.txt\ntwin\n"


TEXTS = [
    b"caf\xe9 ol\xe9\n",
    b"\xcf\xf0\xe8\xe2\xe5\xf2\n" * 50,
    b"\x1b[31mred\x1b[0m\n",
    b"{\\rtf1 \xe4}",
    b"\xef\xbb\xbfa\n",
]


@pytest.mark.parametrize("name", ["a.sql", "a.rtf", "a.ts", "a.tex", "a.h", "a.mp3.txt", "a", "a.bin"])
async def test_text_is_told_from_binary_by_its_content_and_not_by_its_name(sandbox: Sandbox, name: str) -> None:
    for text in TEXTS:
        await sandbox.upload(name, _once(text))
        assert isinstance(await sandbox.read_text(name), TextLines), text
    for binary in (b"a\0b", bytes(range(1, 256)) * 40, b"\x89PNG\r\n"):
        await sandbox.upload(name, _once(binary))
        assert not isinstance(await sandbox.read_text(name), TextLines), binary


async def test_text_in_latin_1_is_edited_in_latin_1(sandbox: Sandbox) -> None:
    await sandbox.upload("/a.sql", _once("-- caf\xe9\nselect 1;\n".encode("latin-1")))
    await sandbox.edit_text("/a.sql", "caf\xe9", "caf\xe9s \xfc")
    assert (
        await output(sandbox, "od -An -c a.sql | head -1")
        == "   -   -       c   a   f 351   s     374  \\n   s   e   l   e   c\n"
    )
    with pytest.raises(FileError, match="not UTF-8"):
        await sandbox.edit_text("/a.sql", "caf\ufffds", "tea")


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


KEPT = [
    ("mode", "chmod 751 f", "stat -c %a f", "751\n"),
    ("set-gid", "chmod 2755 f", "stat -c %a f", "2755\n"),
    ("a relative symlink", "mkdir d; mv f d/g; ln -s d/g f", "readlink f", "d/g\n"),
    ("an absolute symlink", 'mkdir d; mv f d/g; ln -s "$PWD/d/g" f', 'readlink f | sed "s|$PWD/||"', "d/g\n"),
    ("a chain of symlinks", "mv f g; ln -s g h; ln -s h f", "readlink f h", "h\ng\n"),
    ("three hard links", "ln f g; ln f h", "stat -c %h f; cat g h", "3\nnew\nnew\n"),
    ("a hard link to a symlink's target", "ln f g; ln -s g s", "cat s", "new\n"),
    ("a name with a newline", "mv f 'a\nb'; ln -s 'a\nb' f", "cat 'a\nb'", "new\n"),
    ("a very long name", "n=$(printf %0250d 0); mv f $n; ln -s $n f", "cat $(printf %0250d 0)", "new\n"),
    ("no final newline", "printf old > f", "wc -c < f", "3\n"),
    ("a file that was empty before", "mv f g; : > f; printf old > f", "cat f", "new"),
]


@pytest.mark.parametrize(("what", "before", "asked", "answer"), KEPT, ids=[each[0] for each in KEPT])
async def test_an_edit_keeps_what_a_file_is(sandbox: Sandbox, what: str, before: str, asked: str, answer: str) -> None:
    await output(sandbox, f"echo old > f; {before}")
    await sandbox.edit_text("/f", "old", "new")
    assert await output(sandbox, asked) == answer
