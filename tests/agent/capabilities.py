"""What the tests give to agents: MCP servers and archives; and what they read from the events."""

import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.running import Event

from runner_service.v1 import agent_runner_pb2 as runner_pb2

SERVER = str(Path(__file__).with_name("mcp_server.py"))


def agent(**fields: Any) -> runner_pb2.Agent:
    """An agent that comes with something."""
    return runner_pb2.Agent(name="equipped", instructions="Do it.", **fields)


def stdio(*arguments: str, name: str = "test", **fields: Any) -> runner_pb2.McpServer:
    """Our own MCP server."""
    enabled = fields.pop("enabled_tools", [])
    return runner_pb2.McpServer(
        name=name,
        stdio=runner_pb2.StdioServer(command=sys.executable, args=[SERVER, *arguments], **fields),
        enabled_tools=enabled,
    )


def results(events: list[Event]) -> list[str]:
    """What the tools answered, in order."""
    return [event.tool_call_finished.result for event in events if event.HasField("tool_call_finished")]


def notices(events: list[Event]) -> list[tuple[str, str]]:
    """The notices, by code and text, but for that of a cloud sandbox that a slow machine starts slowly."""
    found = [(event.notice.code, event.notice.text) for event in events if event.HasField("notice")]
    return [each for each in found if each[0] != "SANDBOX_STARTING"]


def zip_archive(files: Mapping[str, bytes], *, modes: Mapping[str, int] | None = None) -> bytes:
    """A ZIP."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (modes or {}).get(name, 0o100644) << 16
            made.writestr(info, content, compress_type=zipfile.ZIP_DEFLATED)
    return data.getvalue()
