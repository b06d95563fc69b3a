"""Ways to run a shell command, each in a process of its own that a benchmark asks for rounds.

Usage: python executor_subjects.py NAME DIRECTORY. Stands alone, since peers run it with a Python of their own. Reads
lines of JSON `{"text", "count"}` or `{"at_once", "count"}`, and answers with seconds: a list, one per command, or the
whole, the longest pause of the event loop, and how many exit codes were not 0.
"""

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

Run = Callable[[str], Awaitable[int]]

HEAP_BYTES = 300_000_000
TIMEOUT = 60
SHELL = "/bin/bash"


def posix_spawn(shell: str, text: str) -> int:
    """The floor: the system's own call, and blocking reads."""
    stdout, to_stdout = os.pipe()
    stderr, to_stderr = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate((nothing, to_stdout, to_stderr))]
    pid = os.posix_spawn(shell, [shell, "-c", text], os.environ, file_actions=actions, setsid=True)
    for descriptor in (nothing, to_stdout, to_stderr):
        os.close(descriptor)
    for descriptor in (stdout, stderr):
        while os.read(descriptor, 65536):
            pass
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def create_subprocess(text: str) -> int:
    """What asyncio, or uvloop, offers; output read as it comes and dropped."""
    process = await asyncio.create_subprocess_exec(
        SHELL,
        "-c",
        text,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )

    async def drop(stream: asyncio.StreamReader | None) -> None:
        while stream and await stream.read(65536):
            pass

    await asyncio.gather(drop(process.stdout), drop(process.stderr))
    return await process.wait()


@asynccontextmanager
async def bare(directory: Path, shell: str = SHELL) -> AsyncIterator[Run]:
    os.chdir(directory)

    async def run(text: str) -> int:
        return posix_spawn(shell, text)

    yield run


@asynccontextmanager
async def bare_sh(directory: Path) -> AsyncIterator[Run]:
    async with bare(directory, "/bin/sh") as run:
        yield run


@asynccontextmanager
async def loops_own(directory: Path) -> AsyncIterator[Run]:
    os.chdir(directory)
    yield create_subprocess


@asynccontextmanager
async def ours(directory: Path) -> AsyncIterator[Run]:
    from runner_service.executors.local.executor import local_executor
    from runner_service.executors.protocol import Command, SandboxSpec

    class Dropped:
        async def write(self, stream: str, data: bytes) -> None:
            pass

    opened = local_executor(root=directory, state_dir=directory / f"state-{os.getpid()}")
    async with opened as executor, executor.open(SandboxSpec("benchmark")) as sandbox:

        async def run(text: str) -> int:
            return (await sandbox.run(Command(text, TIMEOUT, Dropped()))).exit_code

        yield run


@asynccontextmanager
async def ours_sh(directory: Path) -> AsyncIterator[Run]:
    """The same on a machine without bash."""
    programs = directory / "without-bash"
    programs.mkdir()
    for name in ("sh", "cat", "seq"):
        (programs / name).symlink_to(shutil.which(name) or name)
    os.environ["PATH"] = str(programs)
    async with ours(directory) as run:
        yield run


@asynccontextmanager
async def deepagents(directory: Path) -> AsyncIterator[Run]:
    from deepagents.backends import LocalShellBackend

    backend = LocalShellBackend(str(directory), virtual_mode=False, max_output_bytes=100_000_000, inherit_env=True)

    async def run(text: str) -> int:
        return (await backend.aexecute(text, timeout=TIMEOUT)).exit_code or 0

    yield run


@asynccontextmanager
async def pydantic_ai(directory: Path) -> AsyncIterator[Run]:
    from pydantic_ai.workspaces import LocalWorkspaceBackend

    backend = LocalWorkspaceBackend(directory)

    async def run(text: str) -> int:
        return int((await backend.run(text, shell=True, timeout=TIMEOUT)).exit_code)

    yield run


@asynccontextmanager
async def swe_rex(directory: Path) -> AsyncIterator[Run]:
    import logging

    from swerex.deployment.local import LocalDeployment
    from swerex.runtime.abstract import Command

    logging.disable()
    deployment = LocalDeployment()
    await deployment.start()

    async def run(text: str) -> int:
        command = Command(command=text, shell=True, timeout=TIMEOUT, cwd=str(directory))  # what is measured
        return (await deployment.runtime.execute(command)).exit_code or 0

    yield run
    await deployment.stop()


SUBJECTS = {
    "posix_spawn": (bare, False),
    "asyncio": (loops_own, False),
    "uvloop": (loops_own, True),
    "runner-service": (ours, True),
    "posix_spawn, sh": (bare_sh, False),
    "runner-service, sh": (ours_sh, True),
    "deepagents": (deepagents, False),
    "pydantic-ai": (pydantic_ai, False),
    "swe-rex": (swe_rex, False),
}
"""Each with whether it runs on uvloop."""


async def one_by_one(run: Run, text: str, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        await run(text)
        seconds.append(time.perf_counter() - began)
    return seconds


async def all_at_once(run: Run, text: str, count: int) -> dict[str, float]:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before - 0.001)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    began = time.perf_counter()
    codes = await asyncio.gather(*(run(text) for _ in range(count)))
    seconds = time.perf_counter() - began
    await asyncio.sleep(0)
    watching.cancel()
    return {"seconds": seconds, "stall": longest, "bad": sum(code != 0 for code in codes)}


async def serve(name: str, directory: Path) -> None:
    heap = bytearray(HEAP_BYTES)
    async with SUBJECTS[name][0](directory) as run:
        print(json.dumps({"ready": len(heap)}), flush=True)
        while line := sys.stdin.readline():
            asked = json.loads(line)
            if "at_once" in asked:
                answer: object = await all_at_once(run, asked["at_once"], asked["count"])
            else:
                answer = await one_by_one(run, asked["text"], asked["count"])
            print(json.dumps(answer), flush=True)


def main() -> None:
    name, directory = sys.argv[1], Path(sys.argv[2])
    if SUBJECTS[name][1]:
        import uvloop

        uvloop.run(serve(name, directory))
    else:
        asyncio.run(serve(name, directory))


if __name__ == "__main__":
    main()
