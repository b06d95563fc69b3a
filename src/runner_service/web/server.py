"""The page's HTTP server, on the event loop of the service. Nothing imports it unless WEB_ADDRESS is set."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from importlib.resources import files
from typing import NamedTuple

from aiohttp import web

from runner_service.addresses import TcpAddress
from runner_service.api.callers.roles import may_call
from runner_service.api.callers.watching import KnownCallers
from runner_service.api.servicer import AgentRunnerServicer
from runner_service.errors import PermissionDeniedError, UnauthenticatedError
from runner_service.executions.overview import Overview
from runner_service.executions.readiness import Readiness
from runner_service.identity import ANY_TENANT, Caller
from runner_service.web.browser_callers import BrowserCallers
from runner_service.web.calls import Calls, refusal
from runner_service.web.connections import Connections
from runner_service.web.guard import HEADERS, Guard
from runner_service.web.schema import build_schema

_MAX_REQUEST_BYTES = 256 * 1024
_BODY_TIMEOUT_SECONDS = 10.0
_HANDSHAKE_TIMEOUT_SECONDS = 10.0
_SHUTDOWN_TIMEOUT_SECONDS = 1.0
_TLS_CHECK_INTERVAL_SECONDS = 10.0
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebListenError(Exception):
    """WEB_ADDRESS cannot be listened on; the text says why."""


class WebOptions(NamedTuple):
    """How to serve the page."""

    names: tuple[str, ...]
    """By which browsers may reach it, besides loopback and the host of its address."""
    cookie_key: bytes
    """Seals tokens in cookies."""
    token: bytes | None = None
    """The only token that the page takes, as the operator's; None: those of callers."""
    tls: ssl.SSLContext | None = None
    """None for plain HTTP."""
    reload_tls: Callable[[], object] = lambda: None
    """Reads the files of the certificate again if they have changed. Called in a thread."""


@asynccontextmanager
async def serve_web(
    wanted: TcpAddress,
    servicer: AgentRunnerServicer,
    callers: KnownCallers,
    readiness: Readiness,
    overview: Overview,
    options: WebOptions,
) -> AsyncIterator[TcpAddress]:
    """Serves the page. Yields the address with its real port.

    Args:
        wanted: where to listen; port 0 takes a free one.
        servicer: answers the calls of the page.
        callers: finds out who calls, by the token in the cookie.
        readiness: refuses calls once the service has stopped.
        overview: what replicas do and tenants use.
        options: the rest.

    Raises:
        WebListenError: it cannot be listened on.
    """
    static = await asyncio.to_thread(_static_files)
    page = _Page(servicer, callers, readiness, overview, Guard(wanted.host, options.names), options, static)
    runner = web.AppRunner(
        page.application(), handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_TIMEOUT_SECONDS
    )
    await runner.setup()
    reloading = asyncio.create_task(_reload_forever(options.reload_tls), name="web-tls")
    try:
        async with _listening(wanted, page.connect(runner), options.tls) as port:
            page.listen_on(port)
            yield TcpAddress(wanted.host, port)
    finally:
        reloading.cancel()
        await runner.cleanup()


@asynccontextmanager
async def _listening(wanted: TcpAddress, connections: Connections, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    """Yields the port. Raises WebListenError."""
    # Both addresses of `localhost` would have different ports if any is taken.
    host = "127.0.0.1" if wanted.host == "localhost" else wanted.host
    handshake = _HANDSHAKE_TIMEOUT_SECONDS if tls else None
    try:
        server = await asyncio.get_running_loop().create_server(
            connections, host, wanted.port, ssl=tls, ssl_handshake_timeout=handshake
        )
    except OSError as error:
        raise WebListenError(f"WEB_ADDRESS {wanted} cannot be listened on: {error.strerror}") from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _reload_forever(reload: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(_TLS_CHECK_INTERVAL_SECONDS)
        await asyncio.to_thread(reload)


class _Page:
    """Answers the requests of browsers."""

    def __init__(
        self,
        servicer: AgentRunnerServicer,
        callers: KnownCallers,
        readiness: Readiness,
        overview: Overview,
        guard: Guard,
        options: WebOptions,
        static: dict[str, tuple[bytes, str]],
    ) -> None:
        self._calls = Calls(servicer, callers)
        self._callers = BrowserCallers(callers, options.cookie_key, options.token, is_secure=options.tls is not None)
        self._readiness = readiness
        self._overview = overview
        self._guard = guard
        self._static = static
        self._connections: Connections | None = None

    def connect(self, runner: web.AppRunner) -> Connections:
        """Returns the connections of the server of the page."""
        if runner.server is None:
            raise RuntimeError("set the runner up first")
        self._connections = Connections(runner.server)
        return self._connections

    def listen_on(self, port: int) -> None:
        """Takes the port of the page."""
        self._callers.port = port

    def application(self) -> web.Application:
        """Returns the routes."""
        application = web.Application(middlewares=[self._around], client_max_size=_MAX_REQUEST_BYTES)
        application.router.add_get("/{name:[a-z]*(?:[.][a-z]+)?}", self._static_file)
        application.router.add_post("/login", self._login)
        application.router.add_post("/about", self._about)
        application.router.add_post("/replicas", self._replicas)
        application.router.add_post("/usage", self._usage)
        application.router.add_post("/api/{rpc}", self._call)
        application.on_response_prepare.append(_add_headers)
        return application

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connections = self._connections
        with connections.busy(request.transport) if connections else nullcontext():
            return await self._answer(request, handler)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._guard.check(request)
        try:
            if request.method == "POST":
                self._readiness.require_not_stopped()
                await _read_body(request)
            return await handler(request)
        except web.HTTPException:
            raise
        except Exception as error:  # noqa: BLE001  # the outermost guard
            return refusal(error, request.path)

    async def _static_file(self, request: web.Request) -> web.StreamResponse:
        found = self._static.get(request.match_info["name"] or "index.html")
        if found is None:
            raise web.HTTPNotFound
        return web.Response(body=found[0], content_type=found[1], charset="utf-8")

    async def _login(self, request: web.Request) -> web.StreamResponse:
        try:
            given = await request.json()
        except ValueError as error:
            raise web.HTTPBadRequest(text="not JSON\n") from error
        token = given.get("token") if isinstance(given, dict) else None
        if not isinstance(token, str) or not token.isascii():
            raise UnauthenticatedError("wrong token")
        response = web.json_response({})
        await self._callers.sign_in(token.encode(), request, response)
        return response

    async def _about(self, request: web.Request) -> web.StreamResponse:
        caller = await self._caller(request)
        about = {
            "name": caller.name,
            "tenant": caller.tenant,
            "is_operator": caller.is_operator,
            "may_approve": may_call(caller, "SubmitApproval"),
            "may_run": may_call(caller, "CancelExecution"),
            "may_revert": may_call(caller, "RevertChanges"),
        }
        return web.json_response(about)

    async def _replicas(self, request: web.Request) -> web.StreamResponse:
        caller = await self._caller(request)
        if not caller.is_operator:
            raise PermissionDeniedError(f"the replicas need the role operate, which {caller.name} does not have")
        return web.json_response(await self._overview.replicas())

    async def _usage(self, request: web.Request) -> web.StreamResponse:
        caller = await self._caller(request)
        return web.json_response(await self._overview.usage(ANY_TENANT if caller.is_operator else caller.tenant))

    async def _call(self, request: web.Request) -> web.StreamResponse:
        await self._callers.prepare(request)
        return await self._calls.answer(request, lambda: self._callers.caller(request))

    async def _caller(self, request: web.Request) -> Caller:
        """Raises CallError."""
        await self._callers.prepare(request)
        return self._callers.caller(request)


async def _read_body(request: web.Request) -> None:
    """Reads the body, which the request keeps. Raises HTTPException."""
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_SECONDS):
            await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the request did not come to its end\n") from None


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _static_files() -> dict[str, tuple[bytes, str]]:
    """Returns content and type of each file of the page, by name."""
    found: dict[str, tuple[bytes, str]] = {}
    for file in files("runner_service.web").joinpath("static").iterdir():
        suffix = file.name[file.name.rindex(".") :]
        found[file.name] = file.read_bytes(), _TYPES[suffix]
    schema = f"export const schema = {json.dumps(build_schema(), separators=(',', ':'))};\n"
    found["schema.js"] = schema.encode(), _TYPES[".js"]
    return found
