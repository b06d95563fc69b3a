"""Limits and redacts the tools and results of MCP servers."""

import asyncio
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mcp import ClientSession
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    PaginatedRequestParams,
    TextContent,
    Tool,
)

from runner_service.agent.mcp.schemas import object_schema
from runner_service.redaction import Redactor

MAX_TOOLS = 128
"""Limit per server."""

MAX_DESCRIPTION_BYTES = 32 * 1024
MAX_SCHEMA_BYTES = 64 * 1024
"""Limits per tool."""

MAX_ATTACHMENT_CHARACTERS = 4 * 1024 * 1024
"""Limit of base64 in one result; providers refuse more."""

_MAX_PAGES = 100
_MAX_NAME_CHARACTERS = 64
_MAX_NAMED_FAULTS = 10
_ODD = re.compile(r"[^A-Za-z0-9_-]")


@dataclass
class ToolListing:
    """Usable tools by the server's names; enabled tools that it lacks; reasons why others are left out."""

    tools: dict[str, Tool] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    _faults: dict[str, str] = field(default_factory=dict)
    _more: int = 0

    def add_tools(self, tools: Sequence[Tool], redactor: Redactor) -> None:
        """Adds tools, or records why they are left out."""
        for tool in tools:
            self._add_tool(tool, redactor)

    def _add_tool(self, tool: Tool, redactor: Redactor) -> None:
        self.unknown.discard(tool.name)
        if fault := _fault(tool) or ("" if len(self.tools) < MAX_TOOLS else f"more than {MAX_TOOLS} are too many"):
            self.leave_out(shown_name(tool.name, redactor), fault)
        else:
            self.tools[tool.name] = _clean(tool, redactor)

    def leave_out(self, name: str, fault: str) -> None:
        """Records why a tool is left out."""
        if len(self._faults) < _MAX_NAMED_FAULTS:
            self._faults[name] = fault
        else:
            self._more += 1

    @property
    def left_out(self) -> str:
        """The tools left out with reasons, for a notice; empty when none is."""
        reasons = "; ".join(f"{name}: {fault}" for name, fault in self._faults.items())
        return f"{reasons}; and {self._more} more" if self._more else reasons


async def list_tools(session: ClientSession, enabled: Collection[str], redactor: Redactor) -> ToolListing:
    """Lists a server's tools: the `enabled` ones, or all if that is empty."""
    listing = ToolListing(unknown=set(enabled))
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor))
        wanted = [tool for tool in page.tools if not enabled or tool.name in enabled]
        # A thread, since a page may have 8 MiB of schemas.
        await asyncio.to_thread(listing.add_tools, wanted, redactor)
        cursor = page.nextCursor
        if not cursor:
            return listing
    listing.leave_out("what follows", f"it lists more than {_MAX_PAGES} pages")
    return listing


def plain_name(name: str) -> str:
    """Returns a tool name that every provider accepts."""
    return _ODD.sub("_", name)[:_MAX_NAME_CHARACTERS] or "tool"


def shown_name(name: str, redactor: Redactor) -> str:
    """Returns a server's name of a tool, redacted, as one that every provider accepts."""
    return plain_name(redactor.beginning(name, _MAX_NAME_CHARACTERS))


def limit_attachments(result: CallToolResult) -> CallToolResult:
    """Drops oversized and unsupported attachments of a result. Long text is offloaded as that of every tool."""
    remaining = MAX_ATTACHMENT_CHARACTERS
    content: list[ContentBlock] = []
    for block in result.content:
        size = _attachment_size(block)
        remaining -= size
        kept = remaining >= 0 and not isinstance(block, AudioContent)
        content.append(block if kept else _placeholder(block, size))
    return result.model_copy(update={"content": content})


def _fault(tool: Tool) -> str:
    described, schema = len((tool.description or "").encode()), tool.inputSchema
    if described > MAX_DESCRIPTION_BYTES:
        return f"its description has {described:,} bytes, and may have {MAX_DESCRIPTION_BYTES:,}"
    if (size := len(json.dumps(schema, ensure_ascii=False).encode())) > MAX_SCHEMA_BYTES:
        return f"its schema has {size:,} bytes, and may have {MAX_SCHEMA_BYTES:,}"
    is_object = schema.get("type", "object") == "object" and isinstance(schema.get("properties", {}), Mapping)
    return "" if is_object else "its arguments are no object"


def _clean(tool: Tool, redactor: Redactor) -> Tool:
    schema = object_schema(redactor.value(tool.inputSchema))
    hints = tool.annotations and tool.annotations.model_copy(update={"title": None})
    return Tool(
        name=tool.name, description=redactor.text(tool.description or ""), inputSchema=schema, annotations=hints
    )


def _attachment_size(block: ContentBlock) -> int:
    match block:
        case ImageContent() | AudioContent():
            return len(block.data)
        case EmbeddedResource(resource=BlobResourceContents(blob=blob)):
            return len(blob)
        case _:
            return 0


def _placeholder(block: ContentBlock, size: int) -> ContentBlock:
    return TextContent(type="text", text=f"[{block.type} left out, of {size * 3 // 4:,} bytes]")
