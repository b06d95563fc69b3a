"""MCP sessions and their tools. Each runs in its own task, so that servers fail independently."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from typing import Any

import anyio
from langchain_core.tools import BaseTool
from mcp import ClientSession, McpError
from mcp.types import CONNECTION_CLOSED, CallToolResult, TextContent, Tool

from runner_service.agent.interface import AgentRun
from runner_service.agent.mcp.http import http_server
from runner_service.agent.mcp.http_limits import HttpLimits
from runner_service.agent.mcp.stdio import ServerOutput, Streams, stdio_server
from runner_service.agent.mcp.tool_listing import limit_attachments, list_tools, plain_name, shown_name
from runner_service.agent.mcp.tools import mcp_tool
from runner_service.executors.egress.mcp_addresses import EgressAddresses
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

_STOP_TIMEOUT_SECONDS = 5.0
_HTTP_TIMEOUT_SECONDS = 30.0
_MAX_REASON_CHARACTERS = 500

Tools = Mapping[str, Mapping[str, BaseTool]]
"""By server, by the server's own tool names."""


class _Session(ClientSession):
    """A session that leaves results to the model.

    Checking them against the server's own schema would run its regular expressions, on the event loop and without end.
    """

    async def _validate_tool_result(self, name: str, result: CallToolResult) -> None:
        """Does nothing."""


class _Connection:
    """The connection to one server."""

    def __init__(self, run: AgentRun, server: runner_pb2.McpServer) -> None:
        self._run = run
        self._server = server
        self._outputs: list[ServerOutput] = []
        self._limits = HttpLimits()
        self._wakes = asyncio.Event()
        self._is_closing = self._is_broken = False
        self._session: asyncio.Future[ClientSession] = asyncio.get_running_loop().create_future()
        self._loss: asyncio.Future[CallToolResult] = asyncio.get_running_loop().create_future()
        """Fails when the session breaks off: what was asked in it is not answered."""
        self.tools: asyncio.Future[dict[str, BaseTool]] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        """Connects, and stays connected until `close`. Failures become notices, never exceptions."""
        try:
            while not self._is_closing:
                await self._serve_until_broken()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # the agent works without the server
            if not self.tools.done():
                self._publish_failure(error)
            self._end_session(error)
        finally:
            if not self.tools.done():
                self.tools.set_result({})

    def close(self) -> None:
        """Lets `serve` end."""
        self._is_closing = True
        self._wakes.set()

    async def _serve_until_broken(self) -> None:
        """Serves a session. One over HTTP that breaks later on is followed by another, once a call needs it."""
        try:
            await self._serve_session()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not self.tools.done() or self._server.HasField("stdio"):
                raise
            self._wakes.clear()
            self._end_session(error)
            if not self._is_closing:
                await self._wakes.wait()

    async def _serve_session(self) -> None:
        """Serves one session, until the server has forgotten it or the connection is closed."""
        self._wakes.clear()
        async with AsyncExitStack() as parts:
            async with asyncio.timeout(self._run.mcp_start_timeout):
                session = await self._open(parts)
                if not self.tools.done():
                    self.tools.set_result(await self._load(session))
            self._loss = asyncio.get_running_loop().create_future()
            self._session.set_result(session)
            await self._wakes.wait()

    def _end_session(self, error: BaseException) -> None:
        if self._session.done():
            self._is_broken = True
            if not self._loss.done():
                self._loss.set_exception(error)
                self._loss.exception()
        else:
            self._session.set_exception(ConnectionError(self._reason(error, self._run.mcp_start_timeout)))
            self._session.exception()

    async def _current_session(self, lost: ClientSession | None = None) -> ClientSession:
        """Returns the session, or another one if it broke, or is the one that was `lost`. Raises ConnectionError."""
        ended = self._session.done() and (self._session.exception() or self._session.result() is lost)
        if self._server.HasField("http") and (ended or self._is_broken):
            self._session = asyncio.get_running_loop().create_future()
            self._is_broken = self._limits.session_lost = False
            self._wakes.set()
        return await asyncio.shield(self._session)

    async def _open(self, parts: AsyncExitStack) -> ClientSession:
        streams = await parts.enter_async_context(self._transport())
        session = _Session(*streams)
        await parts.enter_async_context(session)
        await session.initialize()
        return session

    def _transport(self) -> AbstractAsyncContextManager[Streams]:
        if self._server.HasField("stdio"):
            return stdio_server(self._run.sandbox, self._server.stdio, self._outputs, self._run.redactor)
        if self._run.confinement.network == "none":
            raise PermissionError("the confinement of this execution closes the network")
        addresses = EgressAddresses(self._run.mcp_addresses, self._run.egress)
        return http_server(
            self._server.http,
            self._run.environment,
            self._call_timeout(),
            self._limits,
            addresses,
            may_use_proxy=self._run.egress is None,
        )

    def _call_timeout(self) -> float:
        http = self._server.http
        if self._server.HasField("stdio"):
            return self._run.limits.command_timeout.ToNanoseconds() / 1e9
        return http.timeout.ToNanoseconds() / 1e9 if http.HasField("timeout") else _HTTP_TIMEOUT_SECONDS

    async def _load(self, session: ClientSession) -> dict[str, BaseTool]:
        listing = await list_tools(session, self._server.enabled_tools, self._run.redactor)
        if listing.unknown:
            self._notice("MCP_TOOL_UNKNOWN", f"has no tool {', '.join(sorted(listing.unknown))}")
        if listing.left_out:
            self._notice("MCP_TOOL_LEFT_OUT", f"has tools that cannot be used: {listing.left_out}")
        return {name: self._make_tool(tool) for name, tool in listing.tools.items()}

    def _make_tool(self, tool: Tool) -> BaseTool:
        return mcp_tool(tool, shown_name(tool.name, self._run.redactor), partial(self._call_tool, tool.name))

    async def _call_tool(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Calls a tool. Failures and timeouts of the server become error results."""
        timeout = self._call_timeout()
        try:
            async with asyncio.timeout(timeout):
                return limit_attachments(await self._called(name, arguments))
        except Exception as error:  # noqa: BLE001  # becomes a result for the model
            reason = self._reason(error, timeout)
            tool = shown_name(name, self._run.redactor)
            logger.warning("mcp_call_failed server=%s tool=%s reason=%s", self._server.name, tool, reason)
            text = f"Error: MCP server {self._server.name} failed: {reason}"
            return CallToolResult(isError=True, content=[TextContent(type="text", text=text)])

    async def _called(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Calls a tool, once more in a new session if the server has forgotten this one: then it has not run."""
        session = await self._current_session()
        try:
            return await self._unless_lost(session.call_tool(name, arguments))
        except McpError:
            if not self._limits.session_lost:
                raise
        return await self._unless_lost((await self._current_session(session)).call_tool(name, arguments))

    async def _unless_lost(self, call: Coroutine[Any, Any, CallToolResult]) -> CallToolResult:
        """Awaits the answer to a call. Raises what the session broke off with, if that comes first."""
        answer = asyncio.create_task(call, name="mcp-call")
        try:
            await asyncio.wait([answer, self._loss], return_when=asyncio.FIRST_COMPLETED)
            return await (answer if answer.done() else self._loss)
        finally:
            answer.cancel()

    def _publish_failure(self, error: BaseException) -> None:
        self._notice("MCP_SERVER_UNAVAILABLE", f"cannot be used: {self._reason(error, self._run.mcp_start_timeout)}")

    def _notice(self, code: str, text: str) -> None:
        text = self._run.redactor.text(f"MCP server {self._server.name} {text}")
        logger.warning("mcp_server_incomplete code=%s text=%s", code, text)
        self._run.events.publish(event_pb2.Notice(level=event_pb2.Notice.LEVEL_WARNING, code=code, text=text))

    def _reason(self, error: BaseException, timeout: float) -> str:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        reason = f"no answer within {timeout:g} s" if isinstance(error, TimeoutError) else str(error)
        end, stderr = (self._outputs[-1].end, self._outputs[-1].stderr) if self._outputs else ("", "")
        # A server that has ended is why the session broke off; what else went wrong has made it end.
        reason = end or reason if _is_broken_off(error) else reason or end
        text = f"{reason or type(error).__name__}{f'; it said: {stderr}' if stderr else ''}"
        return self._run.redactor.beginning(text, _MAX_REASON_CHARACTERS)


def _is_broken_off(error: BaseException) -> bool:
    if isinstance(error, McpError):
        return error.error.code == CONNECTION_CLOSED
    return isinstance(error, TimeoutError | anyio.ClosedResourceError | anyio.BrokenResourceError | anyio.EndOfStream)


@asynccontextmanager
async def connect_servers(run: AgentRun, taken: Collection[str]) -> AsyncIterator[Tools]:
    """Starts the MCP servers of an agent concurrently; stops them at the end.

    A tool whose name is in `taken` is renamed `<server>_<tool>`. An unavailable server has no tools.
    """
    connections = [_Connection(run, server) for server in run.agent.mcp_servers]
    tasks = [asyncio.create_task(each.serve(), name="mcp-connection") for each in connections]
    try:
        loaded = [await each.tools for each in connections]
        tools = dict(zip([server.name for server in run.agent.mcp_servers], loaded, strict=True))
        _make_names_unique(tools, set(taken))
        yield tools
    finally:
        for connection in connections:
            connection.close()
        _, late = await asyncio.wait(tasks, timeout=_STOP_TIMEOUT_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.wait(tasks)


def _make_names_unique(tools: Tools, taken: set[str]) -> None:
    for server, own in tools.items():
        for tool in own.values():
            tool.name = next(name for name in _names(server, tool.name) if name not in taken)
            taken.add(tool.name)


def _names(server: str, name: str) -> Iterator[str]:
    yield name
    yield plain_name(f"{server}_{name}")
    for number in count(2):
        yield plain_name(f"{number}_{server}_{name}")
