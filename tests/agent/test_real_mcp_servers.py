"""MCP servers that others have written, as programs of this machine."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from tests.agent.capabilities import agent, notices, results
from tests.running import StartService, command, one, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2


def module(name: str) -> pytest.MarkDecorator:
    """Skips a test whose server is not installed."""
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed: pip install {name.replace('_', '-')}")


def program(name: str) -> pytest.MarkDecorator:
    """Skips a test whose server is not installed."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not on the PATH: npm install -g")


def server(*command: str, name: str = "real") -> runner_pb2.McpServer:
    """A server by its command."""
    return runner_pb2.McpServer(name=name, stdio=runner_pb2.StdioServer(command=command[0], args=command[1:]))


@module("mcp_server_time")
async def test_the_time_server_tells_the_time(start: StartService) -> None:
    asked = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    client = await start([turn("", ("convert_time", asked)), turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[server(sys.executable, "-m", "mcp_server_time")]))

    assert not notices(events)
    assert "21:00" in results(events)[0]


@module("mcp_server_git")
async def test_the_git_server_works_in_the_sandbox(start: StartService, tmp_path: Path) -> None:
    client = await start(
        [
            turn("", command("git init -q . && touch new-file")),
            turn("", ("git_status", {"repo_path": str(tmp_path / "workspace")})),
            turn("Ok."),
        ]
    )

    events = await client.execute(agent=agent(mcp_servers=[server(sys.executable, "-m", "mcp_server_git")]))

    assert not notices(events)
    assert "new-file" in results(events)[1]


@program("mcp-server-filesystem")
async def test_the_file_server_has_its_tools_beside_our_own(start: StartService, tmp_path: Path) -> None:
    root = str(tmp_path / "workspace")
    client = await start(
        [turn("", command("echo text > a.txt")), turn("", ("real_read_file", {"path": f"{root}/a.txt"})), turn("Ok.")]
    )

    events = await client.execute(agent=agent(mcp_servers=[server("mcp-server-filesystem", root)]))

    assert not notices(events)
    assert "text" in results(events)[1]


@program("mcp-server-everything")
async def test_the_server_of_everything_echoes(start: StartService) -> None:
    client = await start([turn("", ("echo", {"message": "hello"})), turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[server("mcp-server-everything")]))

    assert not notices(events)
    assert "hello" in results(events)[0]
    assert one(events, "finished").output == "Ok."
