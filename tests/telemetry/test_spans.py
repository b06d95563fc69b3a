"""Spans as a real collector receives them."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tests.collector import Collector, attributes, collecting
from tests.probe import SERVICE, Context, failure_of, serving

from runner_service.errors import NotFoundError, TimedOutEnd, UnavailableError
from runner_service.settings import Settings
from runner_service.telemetry import (
    chat_span,
    current_span_context,
    execution_span,
    flushed_at_exit,
    record_command,
    record_failure,
    record_usage,
    telemetry,
    tool_span,
    tracing,
)
from runner_service.telemetry.tracing import _provider

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = (("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01"),)
FAILED = Status.STATUS_CODE_ERROR


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as collector:
        yield collector


@contextmanager
def to(collector: Collector) -> Iterator[None]:
    settings = Settings.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint})
    with flushed_at_exit() as flush, tracing(settings, flush):
        yield


async def test_a_call_has_a_server_span_below_the_callers_and_its_work_is_below_that(collector: Collector) -> None:
    async def unary(request: StringValue, context: Context) -> StringValue:
        with tool_span("work", "call-1"):
            return request

    with to(collector):
        async with serving(unary=unary) as probe:
            await probe.call(metadata=TRACEPARENT)
    inner, server = await collector.spans(2)
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert (server.name, server.kind) == (f"{SERVICE}/Call", Span.SPAN_KIND_SERVER)
    told = attributes(server)
    assert told["rpc.system.name"] == told["rpc.system"] == "grpc"
    assert (told["rpc.method"], told["rpc.service"]) == (f"{SERVICE}/Call", SERVICE)
    assert (told["rpc.response.status_code"], told["rpc.grpc.status_code"]) == ("OK", 0)
    assert server.status.code == Status.STATUS_CODE_UNSET
    assert (inner.trace_id, inner.parent_span_id) == (server.trace_id, server.span_id)


@pytest.mark.parametrize(
    ("error", "code", "failed"),
    [
        (NotFoundError("no"), "NOT_FOUND", False),
        (UnavailableError("no"), "UNAVAILABLE", True),
        (RuntimeError("secret text"), "INTERNAL", True),
        (asyncio.CancelledError(), "INTERNAL", True),
    ],
)
async def test_a_failed_call_has_its_true_status_and_no_text(
    collector: Collector, error: BaseException, code: str, failed: bool
) -> None:
    async def unary(request: StringValue, context: Context) -> StringValue:
        raise error

    with to(collector):
        async with serving(unary=unary) as probe:
            await failure_of(probe.call())
    (server,) = await collector.spans(1)
    assert attributes(server)["rpc.response.status_code"] == code
    assert attributes(server)["error.type"] == code
    assert (server.status.code == FAILED) is failed
    assert b"secret text" not in server.SerializeToString()


class Silence:
    """A stream that says nothing until its caller leaves."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def stream(self, request: StringValue, context: Context) -> None:
        self.begun.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("deadline", [None, 60.0])
async def test_a_caller_that_leaves_has_cancelled_the_call(collector: Collector, deadline: float | None) -> None:
    silence = Silence()
    with to(collector):
        async with serving(stream=silence.stream) as probe:
            call = probe.watch(timeout=deadline)
            await silence.begun.wait()
            call.cancel()
            assert await call.code() is grpc.StatusCode.CANCELLED
    (server,) = await collector.spans(1)
    assert attributes(server)["rpc.response.status_code"] == "CANCELLED"


async def test_a_caller_whose_deadline_has_passed_is_told_from_one_that_leaves(collector: Collector) -> None:
    silence = Silence()
    with to(collector):
        async with serving(stream=silence.stream) as probe:
            while not silence.begun.is_set():  # the deadline may pass before the server has the call
                # The client sends 1.01 s, so that for the server the deadline has not passed when the client leaves.
                assert await probe.watch(timeout=1.002).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (server,) = await collector.spans(1)
    assert attributes(server)["rpc.response.status_code"] == "DEADLINE_EXCEEDED"


async def test_health_and_reflection_have_spans_too(collector: Collector) -> None:
    with to(collector):
        async with serving() as probe:
            await probe.health.Check(health_pb2.HealthCheckRequest())
    (server,) = await collector.spans(1)
    assert server.name == "grpc.health.v1.Health/Check"


async def test_an_execution_outlives_its_call_and_stays_in_its_trace(collector: Collector) -> None:
    work: list[asyncio.Task[None]] = []

    async def execute(caller: Any) -> None:
        with execution_span("exec-1", "session-1", agent_name="coder", caller=caller):
            with chat_span("gpt-x", provider="openai") as chat:
                record_usage(chat, input_tokens=3, output_tokens=4, cached_tokens=1, stop_reason="stop")
            with tool_span("execute", "call-1") as tool:
                record_command(tool, exit_code=3, cpu_time=0.5, peak_memory=1024, stdout_bytes=7, stderr_bytes=0)
                record_failure(tool, "EXIT_3")

    async def unary(request: StringValue, context: Context) -> StringValue:
        work.append(asyncio.create_task(execute(current_span_context())))
        return request

    with to(collector):
        async with serving(unary=unary) as probe:
            await probe.call(metadata=TRACEPARENT)
            await work[0]
    spans = {span.name: span for span in await collector.spans(4)}
    execution = spans["invoke_agent coder"]
    assert execution.trace_id.hex() == TRACE_ID
    assert execution.parent_span_id == spans[f"{SERVICE}/Call"].span_id
    told = attributes(execution)
    assert (told["gen_ai.operation.name"], told["gen_ai.conversation.id"]) == ("invoke_agent", "session-1")
    assert told["runner.execution.id"] == "exec-1"

    chat = spans["chat gpt-x"]
    assert (chat.kind, chat.parent_span_id) == (Span.SPAN_KIND_CLIENT, execution.span_id)
    told = attributes(chat)
    assert (told["gen_ai.operation.name"], told["gen_ai.request.model"]) == ("chat", "gpt-x")
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (3, 4)
    assert told["gen_ai.usage.cache_read.input_tokens"] == 1

    tool = spans["execute_tool execute"]
    assert tool.parent_span_id == execution.span_id
    told = attributes(tool)
    assert (told["gen_ai.tool.name"], told["gen_ai.tool.call.id"]) == ("execute", "call-1")
    assert (told["process.exit.code"], told["error.type"], tool.status.code) == (3, "EXIT_3", FAILED)


async def test_work_that_ends_badly_is_failed_by_the_name_of_its_end(collector: Collector) -> None:
    with to(collector):
        with pytest.raises(TimedOutEnd), execution_span("exec-1"):
            raise TimedOutEnd("secret text")
        with pytest.raises(ValueError, match="secret"), chat_span("m"):
            raise ValueError("secret text")
    execution, chat = await collector.spans(2)
    assert attributes(execution)["error.type"] == "TIMED_OUT"
    assert attributes(chat)["error.type"] == "ValueError"
    for span in (execution, chat):
        assert span.status.code == FAILED
        assert b"secret text" not in span.SerializeToString()


def test_a_collector_that_does_not_answer_holds_up_the_end_for_some_seconds_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        with ExitStack() as stack:
            stack.enter_context(telemetry(Settings.from_environment(environ)))
            with chat_span("m"):
                pass
            began = time.monotonic()
        assert time.monotonic() - began < 50  # the exporter itself would try for 100 s


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_tracing_can_be_turned_off_by_the_standard_variables(off: dict[str, str]) -> None:
    assert Settings.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}).exports_traces()
    assert not Settings.from_environment(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", **off}
    ).exports_traces()
    assert not Settings.from_environment({}).exports_traces()


def test_the_standard_variables_name_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def resource() -> dict[str, Any]:
        settings = Settings.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1", "ENV": "staging"})
        provider = _provider(settings)
        provider.shutdown()
        return dict(provider.resource.attributes)

    assert resource()["service.name"] == "runner-service"
    assert resource()["deployment.environment.name"] == "staging"
    monkeypatch.setitem(os.environ, "OTEL_SERVICE_NAME", "mine")
    monkeypatch.setitem(os.environ, "OTEL_RESOURCE_ATTRIBUTES", "team=x")
    assert (resource()["service.name"], resource()["team"]) == ("mine", "x")
