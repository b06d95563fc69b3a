"""deepagents' file and command tools, with our descriptions, and `include_ignored` for glob and grep."""

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any

from deepagents.middleware.filesystem import FilesystemMiddleware, GlobSchema, GrepSchema
from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import Field

from runner_service.agent.tool_descriptions import DESCRIPTIONS
from runner_service.agent.tools.backend import SandboxBackend
from runner_service.agent.tools.scope import includes_ignored

_MAX_RESULT_TOKENS = 15_000
"""Of a longer result the model sees head and tail; deepagents offloads the whole to a file it can read."""

_MAX_REQUESTED_TIMEOUT_SECONDS = 7 * 24 * 3600
"""Above it deepagents rejects the call; below it the request's limit applies."""

ModelHandler = Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]

_DESCRIPTION = "Search what ignore files such as .gitignore leave out, too."


class _GlobArguments(GlobSchema):
    """Arguments of `glob`."""

    include_ignored: bool = Field(default=False, description=_DESCRIPTION)


class _GrepArguments(GrepSchema):
    """Arguments of `grep`."""

    include_ignored: bool = Field(default=False, description=_DESCRIPTION)


_ARGUMENTS = {"glob": _GlobArguments, "grep": _GrepArguments}


class FileTools(FilesystemMiddleware[Any, Any]):
    """Provides the tools. deepagents takes it instead of its own middleware, by the name."""

    def __init__(self) -> None:
        super().__init__(
            backend=SandboxBackend(),
            tools=["execute", "ls", "read_file", "write_file", "edit_file", "glob", "grep"],
            tool_token_limit_before_evict=_MAX_RESULT_TOKENS,
            max_execute_timeout=_MAX_REQUESTED_TIMEOUT_SECONDS,
            custom_tool_descriptions=DESCRIPTIONS,
        )
        self.tools = _with_include_ignored(self.tools)

    @property
    def name(self) -> str:
        """The name of the deepagents middleware that this replaces."""
        return FilesystemMiddleware.__name__

    async def awrap_model_call(self, request: ModelRequest[Any], handler: ModelHandler) -> Any:
        """Offloads a very long message of the user. `history.repair` and the backend leave nothing else to do here."""
        of_user: list[AnyMessage] = [each for each in request.messages if type(each) is HumanMessage]
        if any(self._check_eviction_needed(of_user)):
            return await super().awrap_model_call(request, handler)
        return await handler(request)


def _with_include_ignored(tools: Sequence[BaseTool]) -> list[BaseTool]:
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
