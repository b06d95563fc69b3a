"""What goes wrong, and when."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web
from aiohttp.typedefs import Middleware
from tests.emulator.errors import Refused, ToolboxRefused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
How = Literal["429", "502", "404", "409", "400", "401", "quota", "drop", "lose", "replay", "hang", "cut"]


@dataclass
class Fault:
    """The next `times` requests whose `METHOD path` matches go wrong, after `skip` that do not.

    429, 502 (without a body), 404, 409, 400, 401 and quota (a 400 as well) are answers. `drop` ends the connection
    before the request is worked on, `lose` after it. `replay` works on it twice. `hang` never answers. `cut` ends a
    download in the middle.
    """

    where: str
    how: How
    times: int = 1
    skip: int = 0
    retry_after: float = 0.0
    seen: int = 0


@dataclass
class Faults:
    """Everything that can be turned. Seconds, bytes, and probabilities from 0 to 1.

    `before_execute` is awaited before a script of the toolbox runs.
    `latency` comes before each answer. Each `unauthorized_every`-th request is refused though its key is right. While
    `is_api_away` only toolboxes answer, and those only if `proxy_remembers` what it last heard of the sandboxes, as the
    real one does for two minutes, also of those that are deleted. `full_disk` and `denied` are in the paths
    that cannot be written.

    Of the logs that are followed by WebSocket: they end `eof_lag` after the command, come in frames of `frame_size`,
    and break off after `socket_cut_after` bytes, or when nobody reads them for `socket_patience`.
    """

    plan: list[Fault] = field(default_factory=list)
    start_seconds: float = 0.0
    slow_state: str = "starting"
    stop_seconds: float = 0.0
    exec_delay: float = 0.0
    before_execute: Callable[[], Awaitable[None]] | None = None
    eof_lag: float = 1.0
    latency: float = 0.0
    unauthorized_every: int = 0
    is_api_away: bool = False
    proxy_remembers: bool = True
    full_disk: str = ""
    denied: str = ""
    frame_size: int = 1024
    socket_cut_after: int | None = None
    socket_patience: float = 30.0
    error_rate: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def add(self, where: str, how: How, times: int = 1, *, skip: int = 0, retry_after: float = 0.0) -> Fault:
        fault = Fault(where, how, times, skip, retry_after)
        self.plan.append(fault)
        return fault

    def choose(self, method: str, path: str) -> Fault | None:
        for fault in self.plan:
            if fault.times and re.search(fault.where, f"{method} {path}"):
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                fault.seen += 1
                return fault
        if self.chance.random() < self.error_rate:
            hows: tuple[How, ...] = ("429", "502", "drop", "lose", "replay")
            return Fault("", self.chance.choice(hows), retry_after=0.05)
        return None


def faulty(faults: Faults) -> Middleware:
    """Returns the middleware that makes things go wrong."""
    requests = 0

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        if faults.latency:
            await asyncio.sleep(faults.latency)
        if faults.is_api_away and request.path.startswith("/api/"):
            return web.Response(status=502)
        if faults.unauthorized_every and requests % faults.unauthorized_every == 0:
            return refusal(request, 401, "authentication failed: Bearer token is invalid")
        fault = faults.choose(request.method, request.path)
        if fault is None:
            return await handler(request)
        return await _go_wrong(fault, request, handler)

    return middleware


def refusal(request: web.Request, status: int, message: str) -> web.Response:
    """Returns a refusal in the shape of whoever is asked."""
    kind = Refused if request.path.startswith("/api/") else ToolboxRefused
    return kind(status, message).answer(request)


async def _go_wrong(  # noqa: PLR0911  # one way for each fault
    fault: Fault, request: web.Request, handler: Handler
) -> web.StreamResponse:
    match fault.how:
        case "429":
            headers = {"Retry-After-authenticated": str(fault.retry_after)}
            return web.json_response({"statusCode": 429, "message": "Rate limit exceeded"}, status=429, headers=headers)
        case "502":
            return web.Response(status=502)
        case "404" | "409" | "401" | "400":
            messages = {"404": f"sandbox container not found: {fault.where}", "409": "state change in progress"}
            messages |= {"401": "authentication failed: Bearer token is invalid", "400": "no IP address found"}
            return refusal(request, int(fault.how), messages[fault.how])
        case "quota":
            return refusal(request, 400, "Total CPU limit exceeded. Maximum allowed: 10")
        case "hang":
            await asyncio.Event().wait()
        case "replay":
            await request.read()
            await handler(request)
            return await handler(request)
        case "lose":
            await request.read()
            await handler(request)
        case "cut":
            request["cut"] = True
            return await handler(request)
    assert request.transport is not None
    request.transport.close()
    return web.Response()
