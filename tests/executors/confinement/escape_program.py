"""Tries every escape, as whoever runs this, and prints what came of each as JSON: true when something got out.

Usage: python escape_program.py DIRECTORY [control|thread]. With `control` there is no cell: what gets out then shows
that the scripts are good. With `thread` it is a restricted thread, which has to be the only mechanism here; what it
refuses is null. Standard library only, since an ordinary user runs it with the system's Python.
"""

import asyncio
import ctypes
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.executors.confinement.escapes import ESCAPES, Escape  # needs the path
from tests.executors.recorder import run

from runner_service.allowed_hosts import AllowedHost, parse_hosts
from runner_service.executors.confinement import Confinement
from runner_service.executors.egress.policy import EgressPolicy
from runner_service.executors.local.executor import LocalExecutor, local_executor
from runner_service.executors.protocol import ConfinementError, SandboxSpec

MARKER = f"escape-{os.getpid()}"
IS_CONTROL = "control" in sys.argv[2:]
IS_THREAD = "thread" in sys.argv[2:]
Level = tuple[str, str, bool]
"""Of files and network, and whether something in the root is hidden."""
Outcomes = dict[str, bool | None]
"""Whether an escape got out; None if its level was refused."""


def prepare(base: Path) -> None:
    """Builds the place: a root with repositories, a home with credentials, and what lies outside."""
    for name in ("root/deep/below/hidden", "home/.ssh", "home/.config/gh", "home/.cache", "home/plain"):
        (base / name).mkdir(parents=True)
    for name in ("outside/kube", "outside/agent"):
        (base / name).mkdir(parents=True)
    (base / "runtime").mkdir()
    (base / "sessions" / "other").mkdir(parents=True)
    for name in (
        "root/deep/below/hidden/file",
        "home/.ssh/id",
        "home/.netrc",
        "home/.Xauthority",
        "outside/kube/settings",
        "home/.config/gh/hosts",
        "outside/file",
        "outside/token",
        "sessions/other/file",
    ):
        (base / name).write_text("secret")
    for root in ("root", "forged", "sessions/own"):
        (base / root).mkdir(exist_ok=True)
        shutil.copy(Path(__file__).with_name("in_namespaces.py"), base / root)
    for repository in ("root", "root/sub", "outside/repository"):
        git("init", "-q", str(base / repository))
    part = base / "root" / ".git" / "modules" / "part"
    part.mkdir(parents=True)
    (part / "HEAD").write_text("ref: refs/heads/main")
    (part / "config").write_text("[core]")
    forged = base / "forged"
    target = base / "outside" / "repository" / ".git" / "worktrees" / "x"
    target.mkdir(parents=True)
    (target / "commondir").write_text("../..")
    (target / "gitdir").write_text("/elsewhere/.git")
    (forged / ".git").write_text(f"gitdir: {target}")


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"})


FOUND = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"


def answer(listener: socket.socket, response: bytes = FOUND) -> None:
    """Answers every HTTP request, or whoever gets out to it would wait."""
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(1)  # some only connect
            with suppress(OSError):
                connection.recv(4096)
                connection.sendall(response)


@contextmanager
def neighbours(base: Path) -> Iterator[Mapping[str, str]]:
    """Runs what there is to be reached: listeners, a process with a secret, shared memory, a key."""
    with ExitStack() as parts:
        tcp = parts.enter_context(socket.create_server(("127.0.0.1", 0)))
        everywhere = parts.enter_context(socket.create_server(("0.0.0.0", 0)))
        listeners = [tcp, parts.enter_context(socket.create_server(("0.0.0.0", 0)))]
        redirecting = parts.enter_context(socket.create_server(("0.0.0.0", 0)))
        redirect = f"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:{tcp.getsockname()[1]}/\r\n\r\n".encode()
        threading.Thread(target=answer, args=(redirecting, redirect), daemon=True).start()
        port6 = "1"
        if socket.has_ipv6:
            six = parts.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
            listeners.append(six)
            port6 = str(six.getsockname()[1])
        for listener in listeners:
            threading.Thread(target=answer, args=(listener,), daemon=True).start()
        udp = parts.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        temporary = f"/tmp/{MARKER}.sock"
        agent = str(base / "outside" / "agent" / "socket")
        for name in (
            agent,
            str(base / "runtime" / "socket"),
            str(base / "outside" / "socket"),
            temporary,
            f"\0{MARKER}",
        ):
            unix = parts.enter_context(socket.socket(socket.AF_UNIX))
            unix.bind(name)
            unix.listen()
        shared = Path("/dev/shm") / MARKER
        shared.write_text("shared")
        parts.callback(shared.unlink)
        parts.callback(Path(temporary).unlink)
        os.mkfifo(base / "outside" / "pipe")
        parts.callback(os.close, os.open(base / "outside" / "pipe", os.O_RDWR))
        terminal = os.openpty()
        for descriptor in terminal:
            parts.callback(os.close, descriptor)
        # Not a pipe of ours to hold, in case that this process is killed.
        victim = subprocess.Popen(["python3", "-c", "import time; time.sleep(120)", MARKER], stdout=subprocess.DEVNULL)
        parts.callback(victim.kill)
        number = {"x86_64": 248, "aarch64": 217}[platform.machine()]
        ctypes.CDLL(None).syscall(number, b"user", MARKER.encode(), b"secret", 6, -3)
        yield {
            "PORT": str(tcp.getsockname()[1]),
            "PORT6": port6,
            "UDP_PORT": str(udp.getsockname()[1]),
            "ANY_PORT": str(everywhere.getsockname()[1]),
            "PORT_OF_ALL": str(listeners[1].getsockname()[1]),
            "REDIRECTING_PORT": str(redirecting.getsockname()[1]),
            "ADDRESS": socket.gethostbyname(socket.gethostname()),
            "VICTIM": str(victim.pid),
            "MARKER": MARKER,
            "KEY": MARKER,
            "AGENT": agent,
            "TERMINAL": os.ttyname(terminal[1]),
            "SOCKET": str(base / "runtime" / "socket"),
            "TMP_SOCKET": temporary,
            "OUTSIDE": str(base / "outside"),
            "STATE": str(base / "state"),
            "TOKEN": str(base / "outside" / "token"),
        }


async def main(base: Path) -> None:
    prepare(base)
    os.environ.update(
        HOME=str(base / "home"),
        XDG_RUNTIME_DIR=str(base / "runtime"),
        SSH_AUTH_SOCK=str(base / "outside" / "agent" / "socket"),
        KUBECONFIG=f"/nonexistent:{base}/outside/kube/settings",
        SERVICE_SECRET="secret",
    )
    outcomes: dict[str, bool | None] = {}
    with neighbours(base) as variables:
        for root, escapes in groupby(sorted(ESCAPES, key=lambda each: each.root), key=lambda each: each.root):
            outcomes |= await try_in(base, root, list(escapes), variables)
    print(json.dumps(outcomes))


async def try_in(base: Path, root: str, escapes: list[Escape], variables: Mapping[str, str]) -> Outcomes:
    """Tries escapes in cells of one root, a cell for each level."""
    directory = base / ("sessions" if root == "session" else root)
    opened = local_executor(
        root=directory,
        state_dir=base / "state",
        scope="session" if root == "session" else "shared",
        terminate_grace=0.25,
        secrets=[base / "outside" / "token"],
    )
    outcomes: Outcomes = {}
    async with opened as executor:
        (base / "state" / "secret").write_text("secret")
        for level, each in groupby(sorted(escapes, key=level_of), key=level_of):
            outcomes |= await try_at(base, executor, level, list(each), variables)
    return outcomes


async def try_at(
    base: Path, executor: LocalExecutor, level: Level, escapes: list[Escape], variables: Mapping[str, str]
) -> Outcomes:
    files, network, hides = level
    hosts = allowed(variables) if network == "proxy" else ()
    hidden = (str(base / "root" / "deep" / "below" / "hidden"),) if hides or not IS_THREAD else ()
    confinement = Confinement(files=files, network=network, allowed_hosts=hosts, hidden_paths=hidden)  # type: ignore[arg-type]  # levels
    if IS_CONTROL:
        confinement = Confinement()
    spec = SandboxSpec(
        "e",
        "own",
        environment=variables,
        confinement=confinement,
        egress=EgressPolicy(hosts, lambda *_: None) if network == "proxy" else None,
    )
    outcomes: Outcomes = {}
    async with AsyncExitStack() as parts:
        try:
            found = await executor.confinement_for(confinement)
            sandbox = await parts.enter_async_context(executor.open(spec))
        except ConfinementError:
            if not IS_THREAD:
                raise
            return dict.fromkeys((each.name for each in escapes), None)
        if found is None or found.mechanism.startswith("landlock") is not IS_THREAD:
            raise SystemExit(f"this is confined by {found}")
        first = await run(sandbox, "touch ${TMPDIR:-/tmp}/inside && echo reached")
        if first[1] != b"reached\n":
            raise SystemExit(f"commands do not run at {level}: {first}")
        for escape in escapes:
            _, stdout, _ = await run(sandbox, f'ROOT="{sandbox.root}"; cd "$ROOT"; {escape.script}')
            outcomes[escape.name] = b"ESCAPED" in stdout
    return outcomes


def allowed(variables: Mapping[str, str]) -> tuple[AllowedHost, ...]:
    """Returns what the level `proxy` lets through: names of the loopback, which lead nowhere, and one address."""
    names = [f"localhost:{variables['PORT']}", "localhost:1", "localhost"]
    return parse_hosts([*names, f"{variables['ADDRESS']}:{variables['REDIRECTING_PORT']}"])


def level_of(escape: Escape) -> Level:
    return escape.files, escape.network, "/hidden" in escape.script or "/deep" in escape.script


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve()))
