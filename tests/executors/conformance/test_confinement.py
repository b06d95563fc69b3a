"""Confinement: no file operation leads out of the root, or hangs, whatever a command does to the files."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.executors.recorder import Recorder, output, run

from runner_service.executors.protocol import (
    Command,
    Executor,
    FileError,
    Sandbox,
    SandboxError,
    SandboxSpec,
    TextLines,
)

Operation = Callable[[Sandbox, str], Awaitable[object]]


async def nothing() -> AsyncIterator[bytes]:
    yield b"stolen"


async def everything(sandbox: Sandbox, path: str) -> object:
    return [piece async for piece in sandbox.download(path)]


OPERATIONS: dict[str, Operation] = {
    "read": lambda sandbox, path: sandbox.read_text(path),
    "write": lambda sandbox, path: sandbox.write_text(path, "stolen"),
    "edit": lambda sandbox, path: sandbox.edit_text(path, "secret", "stolen"),
    "list": lambda sandbox, path: sandbox.list_directory(path),
    "glob": lambda sandbox, path: sandbox.glob("*", path),
    "grep": lambda sandbox, path: sandbox.grep("secret", path),
    "upload": lambda sandbox, path: sandbox.upload(path, nothing()),
    "download": everything,
}

WAYS_OUT = {
    "dots": "../outside/secret",
    "dots below the real root": "{root}/../outside/secret",
    "dots through a directory": "dir/../../outside/secret",
    "a relative link": "relative/secret",
    "an absolute link": "absolute/secret",
    "a link to the file": "file",
    "a link to a link": "twice/secret",
    "a link with dots": "up/outside/secret",
    "a directory above": "..",
}

PREPARE = """
    mkdir -p ../outside dir; echo secret > ../outside/secret
    ln -s ../outside relative; ln -s "$(cd ../outside && pwd -P)" absolute; ln -s ../outside/secret file
    ln -s relative twice; ln -s .. up
"""


@pytest.mark.parametrize("way", WAYS_OUT.values(), ids=WAYS_OUT.keys())
async def test_nothing_leads_out_of_the_root(sandbox: Sandbox, way: str) -> None:
    await output(sandbox, PREPARE)
    for name, operation in OPERATIONS.items():
        with pytest.raises(FileError) as refused:
            await operation(sandbox, way.format(root=sandbox.root))
        assert refused.value.code == "outside_root", name
    assert await output(sandbox, "cat ../outside/secret; ls -A ../outside") == "secret\nsecret\n"


async def test_an_absolute_path_outside_means_one_inside(sandbox: Sandbox) -> None:
    await sandbox.write_text("/etc/passwd", "mine")
    assert await output(sandbox, "cat etc/passwd") == "mine"


async def test_deleting_a_link_out_removes_the_link_only(sandbox: Sandbox) -> None:
    await output(sandbox, PREPARE)
    await sandbox.delete("/relative")
    await output(sandbox, "mkdir tree; ln -s ../../outside tree/link")
    await sandbox.delete("/tree")
    assert await output(sandbox, "cat ../outside/secret; ls -d relative tree 2>/dev/null || true") == "secret\n"


async def test_searches_do_not_follow_links(sandbox: Sandbox) -> None:
    await output(sandbox, PREPARE + "echo secret > dir/mine; ln -s . loop")
    assert [match.path for match in (await sandbox.grep("secret")).items] == [f"{sandbox.root}/dir/mine"]
    assert [entry.path for entry in (await sandbox.glob("**/*")).items] == [f"{sandbox.root}/dir/mine"]


@pytest.mark.parametrize("path", ["circle", "circle/deeper"])
async def test_links_in_a_circle_are_refused(sandbox: Sandbox, path: str) -> None:
    await output(sandbox, "ln -s circle2 circle; ln -s circle circle2")
    with pytest.raises(FileError) as refused:
        await sandbox.read_text(path)
    assert refused.value.code == "invalid"


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
async def test_what_is_no_file_neither_hangs_nor_is_touched(sandbox: Sandbox, kind: str) -> None:
    make = {
        "fifo": "mkfifo thing",
        "socket": "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"thing\")'",
        "device": "mknod thing c 1 5 2>/dev/null || mkfifo thing",
    }
    await output(sandbox, make[kind])
    for name, operation in OPERATIONS.items():
        async with asyncio.timeout(60):
            assert await refusal_or_items(operation(sandbox, "thing")) in ("not_regular", "not_directory", []), name
    assert await output(sandbox, "test -f thing || echo untouched") == "untouched\n"


async def refusal_or_items(operation: Awaitable[object]) -> object:
    try:
        return getattr(await operation, "items", None)
    except FileError as refused:
        return refused.code


SWAP = """
import os, time
end = time.monotonic() + 1
while time.monotonic() < end:
    for target in ("../outside", "real"):
        os.symlink(target, "next")
        os.rename("next", "way")
    os.rename("real", "aside")
    os.rename("trap", "real")
    os.rename("real", "trap")
    os.rename("aside", "real")
    os.symlink("../outside/secret", "next")
    os.rename("next", "flip")
    os.mkfifo("next")
    os.rename("next", "flip")
    with open("next", "w") as file:
        file.write("harmless\\n")
    os.rename("next", "flip")
"""


async def test_a_race_between_check_and_use_gets_nothing_out(sandbox: Sandbox) -> None:
    await output(sandbox, PREPARE + "mkdir real; echo harmless > real/secret; ln -s ../outside trap")
    swapping = asyncio.create_task(output(sandbox, f"python3 -c '{SWAP}'"))
    seen = set()
    while not swapping.done():
        for path in ("way/secret", "real/secret", "flip", "flip", "flip"):
            seen.add(await text_or_refusal(sandbox, path))
            await refusal_or_items(sandbox.edit_text(path, "harm", "HARM"))
            await refusal_or_items(sandbox.edit_text(path, "HARM", "harm"))
            await refusal_or_items(sandbox.edit_text(path, "secret", "stolen"))
    await swapping
    assert "harmless\n" in seen
    assert seen <= {"harmless\n", "HARMless\n", "outside_root", "not_found", "not_directory", "not_regular", "invalid"}
    assert await output(sandbox, "cat ../outside/secret; ls -A ../outside") == "secret\nsecret\n"


async def text_or_refusal(sandbox: Sandbox, path: str) -> str:
    try:
        content = await sandbox.read_text(path)
    except FileError as refused:
        return refused.code
    assert isinstance(content, TextLines)
    return content.text


async def test_the_root_cannot_be_removed_or_its_removal_is_said_clearly(executor: Executor) -> None:
    """In a cell the root is a mount point, which the kernel does not remove."""
    async with executor.open(SandboxSpec("e")) as sandbox:
        removal, _, _ = await run(sandbox, 'rm -rf "$PWD"')
        if removal.exit_code:
            assert await output(sandbox, "pwd") == f"{sandbox.root}\n"
            return
        with pytest.raises(SandboxError, match="working directory"):
            await sandbox.run(Command("true", 10, Recorder()))
        with pytest.raises(FileError) as refused:
            await sandbox.list_directory("/")
        assert refused.value.code == "not_found"
