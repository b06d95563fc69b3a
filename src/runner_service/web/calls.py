"""The rpcs that the page may call, on the servicer itself: no network, the same identities, tenants and roles.

Requests are JSON, responses the bytes of the proto. A stream is messages, each after its length in 4 bytes.
"""

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import grpc
from aiohttp import web
from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from runner_service.api.callers.delegation import TENANT_KEY
from runner_service.api.callers.watching import KnownCallers
from runner_service.api.servicer import SERVICE_NAME, AgentRunnerServicer
from runner_service.errors import CallError
from runner_service.identity import Caller, current_caller
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

RPCS = frozenset(
    {
        "CancelExecution",
        "GetDiff",
        "GetExecution",
        "ListApprovals",
        "ListExecutions",
        "ListFileChanges",
        "ReadToolOutput",
        "RevertChanges",
        "SubmitApproval",
        "WatchApprovals",
        "WatchExecution",
    }
)
"""What the page may call. It starts nothing."""

_LENGTH_BYTES = 4
_HTTP_STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}


class _Rpc(NamedTuple):
    method: Any
    request: type[Message]
    is_stream: bool


class Calls:
    """Calls the servicer for browsers."""

    def __init__(self, servicer: AgentRunnerServicer, callers: KnownCallers) -> None:
        self._callers = callers
        self._rpcs: dict[str, _Rpc] = {}
        handlers: Mapping[str, Any] = servicer.handlers()
        for method in runner_pb2.DESCRIPTOR.services_by_name["AgentRunnerService"].methods:
            if method.name in RPCS:
                handler, request = handlers[method.name], GetMessageClass(method.input_type)
                behaviour = handler.unary_stream if method.server_streaming else handler.unary_unary
                self._rpcs[method.name] = _Rpc(behaviour, request, method.server_streaming)

    async def answer(self, request: web.Request, find_caller: Callable[[], Caller]) -> web.StreamResponse:
        """Answers a request for an rpc. `find_caller` raises UnauthenticatedError, also later when a token is revoked.

        Raises:
            CallError: as the contract of the rpc says.
        """
        name = request.match_info["rpc"]
        if name not in self._rpcs:
            raise web.HTTPNotFound
        rpc, message = self._rpcs[name], await _parsed(request, self._rpcs[name].request)
        metadata = [(TENANT_KEY, tenant) for tenant in request.headers.getall(TENANT_KEY, [])]

        def identify() -> Caller:
            return self._callers.calls.allow(find_caller(), metadata, f"/{SERVICE_NAME}/{name}")

        with self._callers.calls.counting_unknown():
            caller = identify()
        current_caller.set(caller)
        async with self._callers.calls.admitted(caller, name, identify):
            if rpc.is_stream:
                return await _stream(request, rpc, message)
            response: Message = await rpc.method(message, None)
            return web.Response(body=response.SerializeToString(), content_type="application/octet-stream")


class _BrowserContext:
    """What the servicer needs of a call's context: where to write, and which connection it is."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response: web.StreamResponse | None = None

    def peer(self) -> str:
        """Names the connection."""
        transport = self._request.transport
        return f"web:{transport.get_extra_info('peername') if transport else ''}"

    async def write(self, message: "bytes | Message") -> None:
        """Writes a message, and waits until there is room for the next."""
        data = message if isinstance(message, bytes) else message.SerializeToString()
        if self.response is None:
            self.response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
            self.response.content_type = "application/octet-stream"
            await self.response.prepare(self._request)
        await self.response.write(len(data).to_bytes(_LENGTH_BYTES) + data)


async def _stream(request: web.Request, rpc: _Rpc, message: Message) -> web.StreamResponse:
    context = _BrowserContext(request)
    try:
        await rpc.method(message, cast("grpc.aio.ServicerContext[Any, Any]", context))
    except CallError:
        if context.response is None:
            raise
        if request.transport:
            request.transport.abort()  # it has begun, so only a break can say that it is not complete
    except ConnectionError:  # the browser has left
        pass
    return context.response or web.Response(content_type="application/octet-stream")


async def _parsed(request: web.Request, kind: type[Message]) -> Message:
    try:
        return Parse(await request.text(), kind())
    except (ParseError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(text=f"not a {kind.DESCRIPTOR.name}: {error}\n") from error


def refusal(error: Exception, path: str) -> web.Response:
    """Returns the response for an error; internals stay in the log."""
    if isinstance(error, CallError):
        status = _HTTP_STATUS.get(error.code, 500)
        return web.json_response({"code": error.code.name, "message": error.message}, status=status)
    fault = secrets.token_hex(4)
    logger.error("web_call_failed path=%s id=%s", path, fault, exc_info=error)
    return web.json_response({"code": "INTERNAL", "message": f"internal error {fault}"}, status=500)
