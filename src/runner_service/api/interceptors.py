"""Server interceptors, outermost first: tracing, error guard, access control (caller, role and health gate).

grpc.aio accepts only coroutine functions as asynchronous handlers, and does not close async generators when a call
ends. So each interceptor wraps the handler in a coroutine function that exhausts or closes the generator itself.
"""

import asyncio
import inspect
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

import grpc
from opentelemetry import trace

from runner_service.api.callers.open_calls import AdmittedCalls
from runner_service.api.callers.sources import CallerSource
from runner_service.api.error_details import abort_with, end_abandoned_call, require_decodable, tolerant_deserializer
from runner_service.errors import CallError
from runner_service.executions.readiness import Readiness
from runner_service.identity import Caller, current_caller
from runner_service.telemetry import record_call_status, server_span

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any  # grpc.RpcMethodHandler[Any, Any], which can be written in stubs only
Behaviour = Callable[[Any, Context], Awaitable[Any]]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]

_HEALTH_PREFIX = "/grpc.health.v1.Health/"
_TRACE_KEYS = frozenset({"traceparent", "tracestate"})

# A client sends the time left until its deadline, rounded up by as much as a hundredth, and leaves at the deadline.
_DEADLINE_ROUNDING = 0.01
_DEADLINE_TRANSIT_SECONDS = 0.1


def interceptors(
    source: CallerSource, admitted: AdmittedCalls, readiness: Readiness, calls: "OpenCalls"
) -> Sequence[grpc.aio.ServerInterceptor]:
    """Returns all interceptors, outermost first."""
    return [Tracing(calls), ErrorGuard(), AccessControl(source, admitted, readiness)]


class OpenCalls:
    """Counts running handlers: grpc's own stop does not wait for their cleanup."""

    def __init__(self) -> None:
        self.begun = 0
        """How many calls there have been."""
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> None:
        self.begun += 1
        self._count += 1
        self._none.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if self._count == 0:
            self._none.set()

    @property
    def are_open(self) -> bool:
        """True while a handler runs."""
        return self._count > 0

    async def all_ended(self) -> None:
        """Waits until no handler runs."""
        await self._none.wait()


class _HandlerInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler with `around`. Caches the wrapped handlers."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    @abstractmethod
    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Calls `behaviour(request, context)` and returns its result."""

    def deserializer(self, handler: Handler) -> Any:
        """Returns the request deserializer for `handler`."""
        return handler.request_deserializer

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Returns the wrapped handler of the method; None for an unknown method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = handler, self._wrap(method, handler)
        return known[1]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        behaviour, deserialize = _as_coroutine(method, handler), self.deserializer(handler)

        async def wrapped(request: Any, context: Context) -> Any:
            return await self.around(method, behaviour, request, context)

        return _KINDS[handler.request_streaming, handler.response_streaming](
            wrapped, deserialize, handler.response_serializer
        )


_KINDS: dict[tuple[bool, bool], Callable[..., Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class Tracing(_HandlerInterceptor):
    """Records a server span per call, as a child of the caller's, with the call's actual status."""

    def __init__(self, calls: OpenCalls) -> None:
        super().__init__()
        self._calls = calls

    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Calls `behaviour` within the span."""
        metadata = {key: str(value) for key, value in context.invocation_metadata() or () if key in _TRACE_KEYS}
        seconds_at_first = context.time_remaining()
        with self._calls, server_span(method, metadata) as span:
            try:
                return await behaviour(request, context)
            except asyncio.CancelledError:
                context.set_code(_code_of_leaving(context, seconds_at_first))
                raise
            finally:
                record_call_status(span, _code(context))


class ErrorGuard(_HandlerInterceptor):
    """Converts every exception of a handler into a status without internals."""

    def deserializer(self, handler: Handler) -> Callable[[bytes], Any] | None:
        """Returns a deserializer that never raises: grpc would answer UNKNOWN with the exception's text."""
        return None if handler.request_deserializer is None else tolerant_deserializer(handler.request_deserializer)

    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Calls `behaviour` and completes the call in every case."""
        try:
            return await behaviour(require_decodable(request), context)
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError:  # a write to a caller who has left; the cancellation is on its way
            return await end_abandoned_call(context)
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            # Raised by the handler: grpc would take it for the caller's cancellation and never complete the call.
            return await abort_with(error, method, context)
        except Exception as error:  # noqa: BLE001  # the outermost guard: no exception may reach a caller unconverted
            return await abort_with(error, method, context)


class AccessControl(_HandlerInterceptor):
    """Finds out who calls, and whether they may; refuses calls once the service has stopped. Health checks pass.

    A token decides before anything of the request is read. A certificate is known only to the handler.
    """

    def __init__(self, source: CallerSource, admitted: AdmittedCalls, readiness: Readiness) -> None:
        super().__init__()
        self._source = source
        self._admitted = admitted
        self._readiness = readiness

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Returns the handler of the method, or one that refuses the call.

        Runs before the request is read; the handler itself would run only after the whole request has arrived.
        """
        handler = await super().intercept_service(continuation, handler_call_details)
        if handler is None or handler_call_details.method.startswith(_HEALTH_PREFIX):
            return handler
        metadata = handler_call_details.invocation_metadata or ()
        try:
            with self._admitted.counting_unknown():
                await self._source.prepare(metadata)
                if caller := self._source.from_metadata(metadata):
                    self._admitted.allow(caller, metadata, handler_call_details.method)
        except CallError as error:
            return _refusing(error)
        return handler

    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Calls `behaviour`, or raises a CallError, also later when the caller is no longer allowed to call."""
        if method.startswith(_HEALTH_PREFIX):
            return await behaviour(request, context)
        self._readiness.require_not_stopped()

        def identify() -> Caller:
            metadata = context.invocation_metadata() or ()
            if found := self._source.from_metadata(metadata):
                found = self._source.confirm(found, context.auth_context())
            else:
                found = self._source.from_certificate(context.auth_context())
            return self._admitted.allow(found, metadata, method)

        with self._admitted.counting_unknown():
            caller = identify()
        current_caller.set(caller)
        trace.get_current_span().set_attributes({"runner.caller": caller.name, "runner.tenant": caller.tenant})
        async with self._admitted.admitted(caller, method, identify):
            return await behaviour(request, context)


def _refusing(refusal: CallError) -> Handler:
    """Returns a handler that raises `refusal`. It is a streaming one: only these need not read the request."""

    async def refuse(_requests: Any, _context: Context) -> None:
        raise refusal

    return grpc.stream_stream_rpc_method_handler(refuse)


def _as_coroutine(method: str, handler: Handler) -> Behaviour:
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if inspect.iscoroutinefunction(behaviour):
        return cast("Behaviour", behaviour)
    if not inspect.isasyncgenfunction(behaviour):
        raise TypeError(f"the handler of {method} is not asynchronous")

    async def driven(request: Any, context: Context) -> None:
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return driven


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _code(context: Context) -> grpc.StatusCode:
    code = context.code()
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK


def _code_of_leaving(context: Context, seconds_at_first: float | None) -> grpc.StatusCode:
    """Returns the status that the caller saw when it left; `seconds_at_first` were left when the call began."""
    seconds_left = context.time_remaining()
    if seconds_at_first is None or seconds_left is None:
        return grpc.StatusCode.CANCELLED
    has_passed = seconds_left <= _DEADLINE_ROUNDING * seconds_at_first + _DEADLINE_TRANSIT_SECONDS
    return grpc.StatusCode.DEADLINE_EXCEEDED if has_passed else grpc.StatusCode.CANCELLED
