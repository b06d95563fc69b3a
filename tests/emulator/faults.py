"""What goes wrong, and when."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web
from aiohttp.typedefs import Middleware

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
How = Literal["429", "502", "404", "409", "400", "401", "drop", "lose", "replay", "hang", "cut"]


@dataclass
class Fault:
    """The next `times` requests whose `METHOD path` matches go wrong, after `skip` that do not.

    429, 502 (without a body), 404, 409, 400 (over quota) and 401 are answers. `drop` ends the connection before the
    request is worked on, `lose` after it. `replay` works on it twice. `hang` never answers. `cut` ends a
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

    Of the logs that are followed by WebSocket: they end `eof_lag` after the command, come in frames of `frame_size`,
    and break off after `socket_cut_after` bytes, or when nobody reads them for `socket_patience`.
    """

    plan: list[Fault] = field(default_factory=list)
    start_seconds: float = 0.0
    slow_state: str = "starting"
    stop_seconds: float = 0.0
    exec_delay: float = 0.0
    eof_lag: float = 1.0
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

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = faults.choose(request.method, request.path)
        if fault is None:
            return await handler(request)
        return await _go_wrong(fault, request, handler)

    return middleware


async def _go_wrong(  # noqa: PLR0911  # one way for each fault
    fault: Fault, request: web.Request, handler: Handler
) -> web.StreamResponse:
    match fault.how:
        case "429":
            headers = {"Retry-After-authenticated": str(fault.retry_after)}
            return web.json_response({"statusCode": 429, "message": "Rate limit exceeded"}, status=429, headers=headers)
        case "502":
            return web.Response(status=502)
        case "404" | "409" | "401":
            messages = {"404": "sandbox container not found", "409": "Sandbox state change in progress", "401": "no"}
            status = int(fault.how)
            return web.json_response({"statusCode": status, "message": messages[fault.how]}, status=status)
        case "400":
            message = "Total CPU limit exceeded. Maximum allowed: 10"
            return web.json_response({"statusCode": 400, "error": "Bad Request", "message": message}, status=400)
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
