"""The page's HTTP server, on the event loop of the service. Nothing imports it unless WEB_ADDRESS is set."""

import asyncio
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import NamedTuple

from aiohttp import web

from runner_service.addresses import TcpAddress
from runner_service.api.callers.roles import may_call
from runner_service.api.callers.watching import KnownCallers
from runner_service.api.servicer import AgentRunnerServicer
from runner_service.errors import UnauthenticatedError
from runner_service.executions.readiness import Readiness
from runner_service.identity import OPERATOR, Caller
from runner_service.web.calls import Calls, refusal
from runner_service.web.cookies import MAX_AGE_SECONDS, CookieSeal
from runner_service.web.guard import HEADERS, Guard
from runner_service.web.schema import build_schema

_MAX_REQUEST_BYTES = 256 * 1024
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
    options: WebOptions,
) -> AsyncIterator[TcpAddress]:
    """Serves the page. Yields the address with its real port.

    Args:
        wanted: where to listen; port 0 takes a free one.
        servicer: answers the calls of the page.
        callers: finds out who calls, by the token in the cookie.
        readiness: refuses calls once the service has stopped.
        options: the rest.

    Raises:
        WebListenError: it cannot be listened on.
    """
    static = await asyncio.to_thread(_static_files)
    page = _Page(servicer, callers, readiness, Guard(wanted.host, options.names), options, static)
    runner = web.AppRunner(
        page.application(), handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_TIMEOUT_SECONDS
    )
    await runner.setup()
    reloading = asyncio.create_task(_reload_forever(options.reload_tls), name="web-tls")
    try:
        # Both addresses of `localhost` would have different ports if any is taken.
        host = "127.0.0.1" if wanted.host == "localhost" else wanted.host
        try:
            await web.TCPSite(runner, host, wanted.port, ssl_context=options.tls).start()
        except OSError as error:
            raise WebListenError(f"WEB_ADDRESS {wanted} cannot be listened on: {error.strerror}") from error
        page.port = runner.addresses[0][1]
        yield TcpAddress(wanted.host, page.port)
    finally:
        reloading.cancel()
        await runner.cleanup()


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
        guard: Guard,
        options: WebOptions,
        static: dict[str, tuple[bytes, str]],
    ) -> None:
        self._calls = Calls(servicer, callers)
        self._callers = callers
        self._readiness = readiness
        self._guard = guard
        self._seal = CookieSeal(options.cookie_key)
        self._token = options.token
        self._static = static
        self._is_secure = options.tls is not None
        self.port = 0

    def application(self) -> web.Application:
        """Returns the routes."""
        application = web.Application(middlewares=[self._around], client_max_size=_MAX_REQUEST_BYTES)
        application.router.add_get("/{name:[a-z]*(?:[.][a-z]+)?}", self._static_file)
        application.router.add_post("/login", self._login)
        application.router.add_post("/about", self._about)
        application.router.add_post("/api/{rpc}", self._call)
        application.on_response_prepare.append(_add_headers)
        return application

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._guard.check(request)
        try:
            if request.method == "POST":
                self._readiness.require_not_stopped()
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
        with self._callers.calls.counting_unknown():
            await self._callers.prepare(_metadata(token.encode()))
            self._caller_of(token.encode())
        response = web.json_response({})
        response.set_cookie(
            self._cookie_name,
            self._seal.seal(token.encode()),
            max_age=MAX_AGE_SECONDS,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=self._is_secure,
        )
        return response

    async def _about(self, request: web.Request) -> web.StreamResponse:
        await self._callers.prepare(_metadata(self._token_in(request)))
        caller = self._caller(request)
        about = {
            "name": caller.name,
            "is_operator": caller.is_operator,
            "may_approve": may_call(caller, "SubmitApproval"),
            "may_run": may_call(caller, "CancelExecution"),
        }
        return web.json_response(about)

    async def _call(self, request: web.Request) -> web.StreamResponse:
        with self._callers.calls.counting_unknown():
            await self._callers.prepare(_metadata(self._token_in(request)))
        return await self._calls.answer(request, lambda: self._caller(request))

    def _caller(self, request: web.Request) -> Caller:
        """Raises UnauthenticatedError."""
        try:
            return self._caller_of(self._token_in(request))
        except UnauthenticatedError:
            raise UnauthenticatedError("sign in with a token of the service") from None

    def _caller_of(self, token: bytes | None) -> Caller:
        if self._token is None:
            return self._callers.by_token(_metadata(token))
        if token is None or not hmac.compare_digest(token, self._token):
            raise UnauthenticatedError("wrong token")
        return OPERATOR

    def _token_in(self, request: web.Request) -> bytes | None:
        cookie = request.cookies.get(self._cookie_name)
        return self._seal.open(cookie) if cookie else None

    @property
    def _cookie_name(self) -> str:
        return f"runner-service-{self.port}"  # cookies are shared by all ports of a host


def _metadata(token: bytes | None) -> list[tuple[str, str | bytes]]:
    return [("authorization", f"Bearer {token.decode()}")] if token else []


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
