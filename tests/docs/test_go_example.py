"""The client in Go, against the real service."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.docs.pages import REPOSITORY
from tests.ports import free_port
from tests.running import StartProcess, command, turn

EXAMPLE = REPOSITORY / "examples" / "go"

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed"),
    pytest.mark.timeout(300),  # the first build fetches and compiles gRPC
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("go") / "client"
    built = subprocess.run(
        ["go", "build", "-o", program, "."], cwd=EXAMPLE, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return program


@asynccontextmanager
async def running(
    client: Path, address: str, *flags: str, **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        client,
        *("-address", address, *flags, "hello"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **variables},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_go_client_shows_what_an_agent_says_and_runs(client: Path, start_process: StartProcess) -> None:
    service = await start_process([turn("You said {{message}}.", command("echo from the tool")), turn("The end.")])

    async with running(client, service.address) as process:
        output, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    assert output.decode() == "You said hello.\n[execute]\nfrom the tool\nThe end.\nSTATE_SUCCEEDED\n"


@pytest.mark.parametrize(("answer", "outcome"), [("y", "there"), ("n", "Error: the user refused this")])
async def test_the_go_client_asks_before_a_command(
    client: Path, start_process: StartProcess, answer: str, outcome: str
) -> None:
    service = await start_process([turn("", command("echo there")), turn("I was told: {{last_tool_result}}")])

    async with running(client, service.address, "-ask") as process:
        output, errors = await process.communicate(f"{answer}\n".encode())

    assert process.returncode == 0, errors.decode()
    assert "run it? [y/n]" in output.decode()
    assert f"I was told: {outcome}" in output.decode()


async def test_the_go_client_shows_what_was_changed_and_takes_it_back(
    client: Path, start_process: StartProcess, tmp_path: Path
) -> None:
    root = tmp_path / "work"
    root.mkdir()
    (root / "a").write_text("1\n")
    service = await start_process([turn("", command("echo 2 > a; echo 3 > b")), turn("ok")], SANDBOX_ROOT_DIR=str(root))

    async with running(client, service.address, "-undo") as process:
        output, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    assert "KIND_MODIFIED a +1 -1\nKIND_ADDED b +1 -0\n" in output.decode()
    assert "-1\n+2\n" in output.decode()
    assert output.endswith(b"2 files put back\n")
    assert {each.name: each.read_text() for each in root.iterdir()} == {"a": "1\n"}


async def test_the_go_client_goes_on_when_the_service_was_killed(
    client: Path, start_process: StartProcess, tmp_path: Path
) -> None:
    turns = [turn("Let me see.", command("echo begun; sleep 600")), turn("The end.")]
    service = await start_process(turns, LISTEN_ADDRESS=f"127.0.0.1:{free_port()}")

    async with running(client, service.address) as process:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            while (line := await process.stdout.readline()) != b"begun\n":
                assert line, "the client ended too early"
        await service.kill()
        await start_process(LISTEN_ADDRESS=service.address)
        output, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    assert output == b"The end.\nSTATE_SUCCEEDED\n"
    assert errors.count(b"attaching again") == 1


async def test_the_go_client_goes_on_with_the_next_token_when_its_own_is_replaced(
    client: Path, start_process: StartProcess, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("the-first-token")
    turns = [turn("", command("echo begun; while [ ! -e go ]; do sleep 0.05; done")), turn("The end.")]
    service = await start_process(turns, AUTH_TOKEN_FILE=str(token))

    async with running(client, service.address, AUTH_TOKEN_FILE=str(token)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while (line := await process.stdout.readline()) != b"begun\n":
                assert line, "the client ended too early"
            token.write_text("the-next-token")
            while b"attaching again" not in (said := await process.stderr.readline()):
                assert said, "the client was not told"
        assert b"wrong token" in said
        (tmp_path / "workspace" / "go").touch()
        output, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    assert output == b"The end.\nSTATE_SUCCEEDED\n"
    assert errors == b""


def test_the_generated_go_code_is_that_of_the_protos(tmp_path: Path) -> None:
    copy = tmp_path / "examples" / "go"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("runnerv1"))
    (tmp_path / "proto").symlink_to(REPOSITORY / "proto")
    (tmp_path / "buf.yaml").symlink_to(REPOSITORY / "buf.yaml")

    buf = Path(sys.executable).with_name("buf")
    made = subprocess.run([buf, "generate"], cwd=copy, capture_output=True, text=True, check=False)

    assert made.returncode == 0, made.stderr
    assert _files(copy / "runnerv1") == _files(EXAMPLE / "runnerv1"), "run `buf generate` in examples/go"


def _files(directory: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in directory.iterdir()}
