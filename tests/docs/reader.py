"""A reader who follows a page: types its blocks into terminals, one after the other, and compares what is printed."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.docs.pages import REPOSITORY, Block, blocks, is_printed
from tests.docs.stand_in import standing_in
from tests.docs.terminals import Terminal
from tests.ports import free_port

QUICK_SCRIPT = """\
turns:
  - text: Let me see.
    tool_calls: [{name: execute, args: {command: "echo 2 3 5 7 11 13"}}]
  - text: These are the primes up to 15.
"""
_PORT = re.compile(r"(?P<before>\blocalhost:|\bport )(?P<port>\d{4,5})\b")
_PROVIDER_PORT = "8000"


async def follow(page: Path, directory: Path) -> None:
    """Follows the page in an empty directory, and fails where it does not hold."""
    async with _reader(directory) as reader:
        for block in blocks(page):
            match block.language:
                case "bash" | "python" if block.is_run:
                    await reader.type(block)
                case "text":
                    await reader.compare(block)
        await reader.finish()


class Reader:
    """Has terminals open in a directory."""

    def __init__(self, directory: Path, environment: Mapping[str, str], ports: dict[str, int]) -> None:
        self._directory = directory
        self._environment = {**environment, "LISTEN_ADDRESS": f"localhost:{_port('50051', ports)}"}
        self._ports = ports
        self._terminals: dict[str, Terminal] = {}
        self._last = ""
        self.stack = AsyncExitStack()

    async def type(self, block: Block) -> None:
        """Types a block into its terminal, and waits for its end unless it stays."""
        text = self._with_free_ports(block.text)
        if "go run" in text and shutil.which("go") is None:
            return
        if block.language == "python":
            program = self._directory / "block.py"
            program.write_text(text)
            text = f"python {program}"
        if "serve" in text:
            await self._own_services_ended()
        self._last = _terminal_of(block) or "first"
        terminal = await self._terminal(self._last)
        await terminal.ended()
        terminal.type(text)
        if "stays" not in block.words:
            await terminal.ended()

    async def compare(self, block: Block) -> None:
        """Waits until a terminal has printed what the block says."""
        terminal = self._terminals[_terminal_of(block) or self._last]
        expected = self._with_free_ports(block.text)
        try:
            await terminal.until(lambda output: is_printed(expected, output))
        except TimeoutError:
            raise AssertionError(f"{block.place} says\n{expected}\nbut there is\n{terminal.output}") from None

    async def finish(self) -> None:
        """Waits for what stays, but for services."""
        for terminal in self._terminals.values():
            if not list(_services(self._directory)):
                await terminal.ended()

    async def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            terminal = Terminal(self._directory, self._environment)
            self._terminals[name] = await self.stack.enter_async_context(terminal)
        return self._terminals[name]

    def _with_free_ports(self, text: str) -> str:
        return _PORT.sub(lambda match: f"{match['before']}{_port(match['port'], self._ports)}", text)

    async def _own_services_ended(self) -> None:
        """Waits, as a person does who reads, until a service that a command brought along has ended."""
        async with asyncio.timeout(60):
            while any("--exit-when-idle" in _proc(pid, "cmdline") for pid in _services(self._directory)):
                await asyncio.sleep(0.1)


@asynccontextmanager
async def _reader(directory: Path) -> AsyncIterator[Reader]:
    for name in ("examples", "deploy", "proto"):
        (directory / name).symlink_to(REPOSITORY / name)
    script = directory / "quick.yaml"
    script.write_text(QUICK_SCRIPT)
    async with standing_in() as provider:
        ports = {_PROVIDER_PORT: provider}
        try:
            reader = Reader(directory, _environment(directory, script, provider), ports)
            async with reader.stack:
                yield reader
        finally:
            for pid in _services(directory):
                os.kill(pid, signal.SIGKILL)


def _terminal_of(block: Block) -> str:
    return next((word for word in block.words if word != "stays"), "")


def _environment(directory: Path, script: Path, provider: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{provider}"
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "PYTHONUNBUFFERED": "1",  # as at a real terminal
        "REPOSITORY": str(REPOSITORY),
        "STIGMER_LLM_SCRIPT": str(script),
        "OLLAMA_BASE_URL": url,
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": "key-for-openai",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "key-for-anthropic",
        **_go_environment(),
    }


def _go_environment() -> dict[str, str]:
    if shutil.which("go") is None:
        return {}
    names = ("GOCACHE", "GOMODCACHE", "GOPROXY", "GOFLAGS", "GOSUMDB")
    values = subprocess.run(["go", "env", *names], capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(zip(names, values, strict=True))


def _services(directory: Path) -> Iterator[int]:
    """Yields the services that hold a directory below `directory` as theirs."""
    for place, _, names in os.walk(directory):  # `rglob` fails when a directory goes meanwhile
        if "service.json" not in names:
            continue
        try:
            pid = int(json.loads(Path(place, "service.json").read_text())["pid"])
        except (ValueError, OSError):
            continue
        if str(directory) in _proc(pid, "environ"):
            yield pid


def _proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _port(documented: str, ports: dict[str, int]) -> int:
    if documented not in ports:
        ports[documented] = free_port()
    return ports[documented]
