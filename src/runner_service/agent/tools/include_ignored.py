"""Adds the parameter `include_ignored` to deepagents' glob and grep."""

from collections.abc import Sequence
from contextvars import ContextVar
from functools import wraps
from typing import Any

from deepagents.middleware.filesystem import GlobSchema, GrepSchema
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import Field

includes_ignored: ContextVar[bool] = ContextVar("includes_ignored", default=False)
"""Whether the current search includes files that ignore files name."""

_DESCRIPTION = "Search what ignore files such as .gitignore leave out, too."


class _GlobArguments(GlobSchema):
    """Arguments of `glob`."""

    include_ignored: bool = Field(default=False, description=_DESCRIPTION)


class _GrepArguments(GrepSchema):
    """Arguments of `grep`."""

    include_ignored: bool = Field(default=False, description=_DESCRIPTION)


_ARGUMENTS = {"glob": _GlobArguments, "grep": _GrepArguments}


def with_include_ignored(tools: Sequence[BaseTool]) -> list[BaseTool]:
    """Returns the tools, with the parameter `include_ignored` for those that search."""
    return [_extended(each) if each.name in _ARGUMENTS and isinstance(each, StructuredTool) else each for each in tools]


def _extended(tool: StructuredTool) -> StructuredTool:
    search = tool.coroutine
    if search is None:
        raise TypeError(f"the tool {tool.name} is not asynchronous")

    @wraps(search)
    async def search_as_asked(*arguments: Any, include_ignored: bool = False, **more: Any) -> Any:
        token = includes_ignored.set(include_ignored)
        try:
            return await search(*arguments, **more)
        finally:
            includes_ignored.reset(token)

    return tool.model_copy(update={"args_schema": _ARGUMENTS[tool.name], "coroutine": search_as_asked})
