"""The restricted thread, which confines where no namespaces can be made; a seccomp filter plays such a container."""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import pytest

from runner_service.executors.supervisor import kernel

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or kernel.landlock_abi() < 6, reason="needs Landlock 6 (Linux 6.12)"
)

HERE = Path(__file__).parent
SOURCES = HERE.parents[2] / "src"


async def said_by(directory: Path, files: str, network: str, *commands: str) -> list[str]:
    """Opens an executor where there are no namespaces, and returns what the commands of an execution say."""
    program = [str(HERE / "without_namespaces.py"), sys.executable, str(HERE / "thread_program.py")]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        str(directory),
        files,
        network,
        *commands,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    found: list[str] = json.loads(said)
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("plain")
    return tmp_path


async def test_a_workspace_is_held_by_a_thread(directory: Path) -> None:
    outside = directory / "outside"
    in_force, *said = await said_by(
        directory,
        "workspace",
        "none",
        f"echo x > {outside}/new || echo held",
        f"cat {outside}/file",
        f"cat {directory}/state/supervisor.json || echo held",
        "echo x > inside && cat inside",
        'echo x > "$TMPDIR/inside" && cat "$TMPDIR/inside"',
        'python3 -I -S -c "import socket; socket.socket(socket.AF_UNIX)" || echo held',
        f"kill -0 {os.getpid()} || echo held",
        f"cat /proc/{os.getpid()}/environ || echo held",
        "grep CapEff /proc/self/status",
        "LONG",
    )
    assert in_force.startswith(f"workspace none landlock {kernel.landlock_abi()}+seccomp git-hooks")
    held = "held\n"
    assert said == [held, "plain", held, "x\n", "x\n", held, held, held, "CapEff:\t0000000000000000\n", ""]


async def test_read_only_and_strict_are_held_by_a_thread(directory: Path) -> None:
    said = await said_by(
        directory, "read_only", "none", "echo x > inside || echo held", "ls / > /dev/null && echo seen"
    )
    assert said[1:] == ["held\n", "seen\n"]
    said = await said_by(
        directory,
        "strict",
        "none",
        f"cat {directory}/outside/file || echo held",
        "echo x > inside && cat inside",
        "git init -q repository && echo made",
    )
    assert said[1:] == ["held\n", "x\n", "made\n"]


async def test_what_a_thread_cannot_hold_is_refused(directory: Path) -> None:
    (refused,) = await said_by(directory, "workspace", "proxy")
    assert "needs namespaces" in refused


async def test_abstract_sockets_and_signals_stay_inside_with_network(directory: Path) -> None:
    connect = "python3 -I -S -c \"import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + '{}')\" || echo held"
    name = f"h8-{os.getpid()}"

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        in_force, *said = await said_by(
            directory, "workspace", "all", connect.format(name), f"kill -0 {os.getpid()} || echo held"
        )
    if "docker" not in in_force:
        assert "unix-sockets" in in_force
        assert said == ["held\n", "held\n"]
