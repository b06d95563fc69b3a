"""Sessions with MCP servers, and their tools. Each lives in a task of its own, so that none harms another."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
from langchain_core.tools import BaseTool
from langchain_mcp_adapters.interceptors import MCPToolCallRequest
from langchain_mcp_adapters.tools import load_mcp_tools
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from runner_service.agent.mcp.stdio import ServerOutput, Streams, stdio_server
from runner_service.agent_run import AgentRun
from runner_service.field_rules import PLACEHOLDER
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

START_WITHIN = 30.0
"""Seconds that a server has to start and to name its tools."""

_GOODBYE_WITHIN = 5.0
_HTTP_TIMEOUT = 30.0
_LONGEST_REASON = 500
_LONGEST_NAME = 64
_ODD = re.compile(r"[^A-Za-z0-9_-]")

Tools = Mapping[str, Mapping[str, BaseTool]]
"""By server, by the server's own names."""


class _Connection:
    """One server, from its start to its end."""

    def __init__(self, run: AgentRun, server: runner_pb2.McpServer) -> None:
        self._run = run
        self._server = server
        self._outputs: list[ServerOutput] = []
        self._closing = asyncio.Event()
        self.tools: asyncio.Future[dict[str, BaseTool]] = asyncio.get_running_loop().create_future()

    async def hold(self) -> None:
        """Connects, and stays connected until `close`. What goes wrong is told as a notice, and never raised."""
        try:
            async with AsyncExitStack() as parts:
                async with asyncio.timeout(START_WITHIN):
                    session = await self._open(parts)
                    self.tools.set_result(await self._load(session))
                await self._closing.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # a server may fail in any way, and an agent can do without it
            self._tell(error)
        finally:
            if not self.tools.done():
                self.tools.set_result({})

    def close(self) -> None:
        """Lets `hold` end."""
        self._closing.set()

    async def _open(self, parts: AsyncExitStack) -> ClientSession:
        streams = await parts.enter_async_context(self._transport())
        session = ClientSession(*streams)
        await parts.enter_async_context(session)
        await session.initialize()
        return session

    def _transport(self) -> AbstractAsyncContextManager[Streams]:
        if self._server.HasField("stdio"):
            return stdio_server(self._run.sandbox, self._server.stdio, self._outputs, self._run.redactor)
        return _http_server(self._server.http, self._run.environment, self._patience())

    def _patience(self) -> float:
        http = self._server.http
        if self._server.HasField("stdio"):
            return self._run.limits.command_timeout.ToNanoseconds() / 1e9
        return http.timeout.ToNanoseconds() / 1e9 if http.HasField("timeout") else _HTTP_TIMEOUT

    async def _load(self, session: ClientSession) -> dict[str, BaseTool]:
        tools = await load_mcp_tools(session, server_name=self._server.name, tool_interceptors=[self._guard])
        enabled = set(self._server.enabled_tools)
        missing = enabled - {tool.name for tool in tools}
        if missing:
            self._notice("MCP_TOOL_UNKNOWN", f"has no tool {', '.join(sorted(missing))}")
        return {tool.name: tool for tool in tools if not enabled or tool.name in enabled}

    async def _guard(self, request: MCPToolCallRequest, handler: Callable[[MCPToolCallRequest], Awaitable[Any]]) -> Any:
        """Calls a tool. A server that has died or says nothing is a failure of the call."""
        patience = self._patience()
        try:
            async with asyncio.timeout(patience):
                return await handler(request)
        except Exception as error:  # noqa: BLE001  # of any kind; the model is told and goes on
            reason = self._reason(error, patience)
            logger.warning("mcp_call_failed server=%s tool=%s reason=%s", self._server.name, request.name, reason)
            text = f"Error: MCP server {self._server.name} failed: {reason}"
            return CallToolResult(isError=True, content=[TextContent(type="text", text=text)])

    def _tell(self, error: BaseException) -> None:
        self._notice("MCP_SERVER_UNAVAILABLE", f"cannot be used: {self._reason(error, START_WITHIN)}")

    def _notice(self, code: str, text: str) -> None:
        text = f"MCP server {self._server.name} {text}"
        logger.warning("mcp_server_incomplete code=%s text=%s", code, text)
        self._run.events.publish(event_pb2.Notice(level=event_pb2.Notice.LEVEL_WARNING, code=code, text=text))

    def _reason(self, error: BaseException, patience: float) -> str:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        reason = f"no answer within {patience:g} s" if isinstance(error, TimeoutError) else str(error)
        failure, complaint = (self._outputs[0].failure, self._outputs[0].complaint) if self._outputs else ("", "")
        text = f"{failure or reason or type(error).__name__}{f'; it said: {complaint}' if complaint else ''}"
        return self._run.redactor.text(text)[:_LONGEST_REASON]


@asynccontextmanager
async def connected(run: AgentRun, taken: Collection[str]) -> AsyncIterator[Tools]:
    """Starts the MCP servers of an agent, side by side, and ends them when the context ends.

    `taken` are names that no tool may have: one that would is called `<server>_<tool>`. A server that cannot be
    used has no tools.
    """
    connections = [_Connection(run, server) for server in run.agent.mcp_servers]
    holding = [asyncio.create_task(each.hold(), name="mcp-connection") for each in connections]
    try:
        loaded = [await each.tools for each in connections]
        tools = dict(zip([server.name for server in run.agent.mcp_servers], loaded, strict=True))
        _make_names_unique(tools, set(taken))
        yield tools
    finally:
        for connection in connections:
            connection.close()
        _, late = await asyncio.wait(holding, timeout=_GOODBYE_WITHIN)
        for task in late:
            task.cancel()
        await asyncio.wait(holding)


def _make_names_unique(tools: Tools, taken: set[str]) -> None:
    for server, own in tools.items():
        for name, tool in own.items():
            if name in taken:
                tool.name = _ODD.sub("_", f"{server}_{name}")[:_LONGEST_NAME]
            taken.add(tool.name)


@asynccontextmanager
async def _http_server(
    http: runner_pb2.HttpServer, environment: Mapping[str, str], patience: float
) -> AsyncIterator[Streams]:
    headers = {name: _filled(value, environment) for name, value in http.headers.items()}
    query = {name: _filled(value, environment) for name, value in http.query.items()}
    async with (
        httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(patience)) as client,
        streamable_http_client(_with_query(http.url, query), http_client=client) as (read, write, _),
    ):
        yield Streams(read, write)


def _with_query(url: str, query: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    return urlunsplit(
        parts._replace(query=urlencode([*parse_qsl(parts.query, keep_blank_values=True), *query.items()]))
    )


def _filled(value: str, environment: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda found: environment[found[1]], value)
