"""Spans by the OpenTelemetry conventions for RPC and generative AI. They hold no content.

Without a collector each is a no-op that only propagates the caller's trace id.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import grpc
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, NoOpTracer, Span, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from runner_service.identity import tenant_of
from runner_service.telemetry.logs import execution_id_var

Attributes = Mapping[str, str | int | float]

_W3C = TraceContextTextMapPropagator()

_SERVER_FAULTS = frozenset({
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
})  # fmt: skip  # the codes that the rpc conventions count as the server's failure; the others are the caller's


class _CurrentTracer:
    """The tracer in use. OpenTelemetry's global tracer can be set only once per process."""

    tracer: Tracer = NoOpTracer()


@contextmanager
def using_tracer(tracer: Tracer) -> Iterator[None]:
    """Creates all spans with `tracer` inside the context."""
    before, _CurrentTracer.tracer = _CurrentTracer.tracer, tracer
    try:
        yield
    finally:
        _CurrentTracer.tracer = before


def current_tracer() -> Tracer:
    """Returns the tracer in use."""
    return _CurrentTracer.tracer


def current_span_context() -> SpanContext:
    """Returns the current span context, for `execution_span`."""
    return trace.get_current_span().get_span_context()


def current_trace_id() -> str:
    """Returns the id of the current trace, 32 hexadecimal digits; empty for none."""
    context = current_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


@contextmanager
def server_span(method: str, metadata: Mapping[str, str]) -> Iterator[Span]:
    """The span of one call. `method` is `/package.Service/Method`; the caller's W3C context is in `metadata`.

    Report the outcome to `record_call_status`.
    """
    full_name = method.removeprefix("/")
    attributes: Attributes = {
        "rpc.system.name": "grpc",
        "rpc.method": full_name,
        "rpc.system": "grpc",  # this and the next: the older names, which most tools still look for
        "rpc.service": full_name.rpartition("/")[0],
    }
    parent = otel_context.Context()
    if metadata:
        parent = _W3C.extract(metadata, context=parent)
    with _span(full_name, SpanKind.SERVER, attributes, parent) as span:
        yield span


def record_call_status(span: Span, code: grpc.StatusCode) -> None:
    """Records the status of a call. Only server faults mark the span as failed."""
    if not span.is_recording():
        return
    span.set_attribute("rpc.response.status_code", code.name)
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code is not grpc.StatusCode.OK:
        span.set_attribute("error.type", code.name)
    if code in _SERVER_FAULTS:
        span.set_status(Status(StatusCode.ERROR))


@contextmanager
def execution_span(
    execution_id: str,
    session_id: str = "",
    *,
    agent_name: str = "",
    caller: SpanContext | None = None,
    caller_name: str = "",
) -> Iterator[Span]:
    """The span of an execution, below the call that started it (`caller`), which may end long before it.

    Log lines within carry the execution's id.
    """
    attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": session_id,
        "gen_ai.agent.name": agent_name,
        "runner.execution.id": execution_id,
        "runner.tenant": tenant_of(execution_id),
        "runner.caller": caller_name,
    }
    parent = otel_context.Context()
    if caller is not None and caller.is_valid:
        parent = trace.set_span_in_context(NonRecordingSpan(caller), parent)
    token = execution_id_var.set(execution_id)
    try:
        with _span(f"invoke_agent {agent_name}".strip(), SpanKind.INTERNAL, _without_empty(attributes), parent) as span:
            yield span
    finally:
        execution_id_var.reset(token)


@contextmanager
def chat_span(model: str, *, provider: str = "") -> Iterator[Span]:
    """The span of one model call. Pass it to `record_usage` when the answer is there."""
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": model,
        "gen_ai.provider.name": provider,
        "runner.execution.id": execution_id_var.get(),
    }
    with _span(f"chat {model}", SpanKind.CLIENT, _without_empty(attributes)) as span:
        yield span


@contextmanager
def tool_span(name: str, call_id: str) -> Iterator[Span]:
    """The span of one tool call. Report a failure that raises nothing to `record_failure`."""
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.call.id": call_id,
        "runner.execution.id": execution_id_var.get(),
    }
    with _span(f"execute_tool {name}", SpanKind.INTERNAL, _without_empty(attributes)) as span:
        yield span


def record_usage(
    span: Span, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0, stop_reason: str = ""
) -> None:
    """Records the tokens of one model call and the provider's stop reason."""
    span.set_attribute("gen_ai.usage.input_tokens", input_tokens)
    span.set_attribute("gen_ai.usage.output_tokens", output_tokens)
    span.set_attribute("gen_ai.usage.cache_read.input_tokens", cached_tokens)
    if stop_reason:
        span.set_attribute("gen_ai.response.finish_reasons", [stop_reason])


def record_command(
    span: Span, *, exit_code: int, cpu_time: float, peak_memory: int, stdout_bytes: int, stderr_bytes: int
) -> None:
    """Records a command's exit code, CPU seconds, and bytes of memory and output."""
    span.set_attribute("process.exit.code", exit_code)
    span.set_attribute("runner.command.cpu_time", cpu_time)
    span.set_attribute("runner.command.peak_memory", peak_memory)
    span.set_attribute("runner.command.stdout_bytes", stdout_bytes)
    span.set_attribute("runner.command.stderr_bytes", stderr_bytes)


def record_failure(span: Span, error_type: str) -> None:
    """Marks the span as failed; `error_type` has low cardinality, such as a code, and is never a message."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR))


@contextmanager
def _span(
    name: str, kind: SpanKind, attributes: Attributes, parent: otel_context.Context | None = None
) -> Iterator[Span]:
    if isinstance(_CurrentTracer.tracer, NoOpTracer) and not _is_traced(None) and not _is_traced(parent):
        yield trace.INVALID_SPAN  # as would come of all this: there is no trace id to propagate
        return
    span = _CurrentTracer.tracer.start_span(
        name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
    )
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield span
    except BaseException as error:
        if kind is not SpanKind.SERVER:  # a call's outcome is its status: see record_call_status
            record_failure(span, _error_type(error))
        raise
    finally:
        span.end()


def _is_traced(context: otel_context.Context | None) -> bool:
    return trace.get_current_span(context).get_span_context().is_valid


def _error_type(error: BaseException) -> str:
    code = getattr(error, "code", None)
    if isinstance(code, grpc.StatusCode):
        return code.name
    return code if isinstance(code, str) else type(error).__qualname__


def _without_empty(attributes: Mapping[str, str]) -> Attributes:
    return {name: value for name, value in attributes.items() if value}
