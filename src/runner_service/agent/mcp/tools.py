"""Tools of MCP servers as the agent's: arguments unchanged, results as text and images that every provider takes."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.tools import BaseTool, ToolException
from mcp.types import (
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
)

from runner_service.models.blocks import plain_blocks

CallTool = Callable[[dict[str, Any]], Awaitable[CallToolResult]]
Blocks = list[dict[str, Any]]

_NOTHING = "(the tool returned nothing)"


class _FailedResultError(ToolException):
    """The server said that the call failed. `content` is for the model."""

    def __init__(self, content: str | Blocks) -> None:
        super().__init__("the tool failed")
        self.content = content


def _content_of_failure(error: ToolException) -> Any:
    return error.content if isinstance(error, _FailedResultError) else str(error)


class McpTool(BaseTool):
    """A tool of an MCP server, which checks the arguments itself."""

    call: CallTool

    def _to_args_and_kwargs(
        self, tool_input: str | dict[str, Any], tool_call_id: str | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Passes the arguments as one value: some have the names of what LangChain passes itself, as `config`."""
        del tool_call_id
        return (), {"arguments": tool_input if isinstance(tool_input, dict) else {}}

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def _arun(self, arguments: dict[str, Any]) -> str | Blocks:
        result = await self.call(arguments)
        # A thread, since a result may have 8 MiB and 50,000 values.
        content = await asyncio.to_thread(_content, result)
        if result.isError:
            raise _FailedResultError(content)
        return content


def mcp_tool(tool: Tool, name: str, call: CallTool) -> McpTool:
    """Returns a tool of a server as a tool of an agent. `call` sends its arguments to the server."""
    return McpTool(
        name=name,
        description=tool.description or "",
        args_schema=tool.inputSchema,
        handle_tool_error=_content_of_failure,
        metadata=tool.annotations.model_dump() if tool.annotations else None,
        call=call,
    )


def _content(result: CallToolResult) -> str | Blocks:
    """The result as a text, or as blocks if there are images in it."""
    blocks = [_block(each) for each in result.content]
    if not plain_blocks(blocks) and result.structuredContent is not None:
        return json.dumps(result.structuredContent, ensure_ascii=False)
    if any(each["type"] != "text" for each in blocks):
        return [each for each in blocks if each.get("text") != ""]
    return "\n".join(each["text"] for each in blocks if each["text"]) or _NOTHING


def _block(block: ContentBlock) -> dict[str, Any]:
    match block:
        case TextContent(text=text):
            return _text(text)
        case ImageContent(data=data, mimeType=kind):
            return {"type": "image", "base64": data, "mime_type": kind}
        case ResourceLink():
            return _text(_described(block))
        case EmbeddedResource(resource=resource):
            return _resource(resource)
    return _text(f"[{block.type}]")


def _resource(resource: TextResourceContents | BlobResourceContents) -> dict[str, Any]:
    if isinstance(resource, TextResourceContents):
        return _text(f"[resource {resource.uri}]\n{resource.text}")
    kind = resource.mimeType or "bytes"
    if kind.startswith("image/"):
        return {"type": "image", "base64": resource.blob, "mime_type": kind}
    return _text(f"[resource {resource.uri}: {kind}, {len(resource.blob) * 3 // 4:,} bytes]")


def _described(link: ResourceLink) -> str:
    details = ", ".join(filter(None, (link.mimeType, f"{link.size:,} bytes" if link.size else None)))
    named = f"[resource {link.title or link.name}: {link.uri}{f' ({details})' if details else ''}]"
    return f"{named} {link.description or ''}".rstrip()


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
