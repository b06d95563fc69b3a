"""A real OTLP receiver sees the whole trip, below the caller's own span, with honest outcomes."""

import asyncio
import json
import signal
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings
from tests.callers.files import CallersYaml, bearer
from tests.ports import free_port
from tests.running import StartProcess, command, one, turn
from tests.scraping import Scrape, metrics_url, scrape

from runner_service.v1 import agent_runner_pb2 as runner_pb2

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector:
    """Keeps every span that arrives."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.spans: list[Any] = []

    def named(self, prefix: str) -> list[Any]:
        return [span for span in self.spans if span.name.startswith(prefix)]

    async def collect(self, receiver: OtelTapHttpProtobufReceiver) -> None:
        async for span in receiver.stream_traces():
            self.spans.append(span)

    async def until(self, *prefixes: str) -> None:
        async with asyncio.timeout(60):
            while not all(self.named(prefix) for prefix in prefixes):
                await asyncio.sleep(0.02)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    port = free_port()
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)) as receiver:
        collector = Collector(port)
        collecting = asyncio.create_task(collector.collect(receiver))
        yield collector
        collecting.cancel()
        await asyncio.wait([collecting])


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


async def test_the_trip_of_a_call_is_one_trace_below_the_callers_span(
    start_process: StartProcess, collector: Collector
) -> None:
    turns = [
        turn("Let me see.", command("echo private-words; exit 3"), usage={"input_tokens": 7, "output_tokens": 5}),
        turn("It failed."),
    ]
    service = await start_process(turns, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    call = service.stub.ExecuteAgent(
        service.client.request("private-wish", session_id="conversation"),
        metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01")],
    )
    events = await service.client.collect(call)
    service.process.send_signal(signal.SIGTERM)
    await service.ended()
    await collector.until("runner_service.v1", "invoke_agent", "chat", "execute_tool")

    (server,) = collector.named("runner_service.v1.AgentRunnerService/ExecuteAgent")
    (execution,) = collector.named("invoke_agent")
    (tool,) = collector.named("execute_tool")
    assert {span.trace_id.hex() for span in (server, execution, tool, *collector.named("chat"))} == {TRACE}
    assert server.parent_span_id.hex() == PARENT
    assert execution.parent_span_id == server.span_id
    assert attributes(server)["rpc.grpc.status_code"] == 0
    assert attributes(execution)["gen_ai.conversation.id"] == "conversation"
    assert len(collector.named("chat")) == 2
    assert {span.parent_span_id for span in collector.named("chat")} == {execution.span_id}
    assert any(attributes(span).get("gen_ai.usage.input_tokens") == 7 for span in collector.named("chat"))
    assert attributes(tool)["gen_ai.tool.name"] == "execute"
    assert attributes(tool)["gen_ai.tool.call.id"] == one(events, "tool_call_started").tool_call_id
    assert attributes(tool)["process.exit.code"] == 3
    assert tool.status.code == 2
    assert "private" not in "".join(map(str, collector.spans))


async def test_a_call_that_was_refused_and_an_execution_that_failed_say_so(
    start_process: StartProcess, collector: Collector
) -> None:
    service = await start_process(
        [turn("", command("true")) for _ in range(4)], OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint
    )
    await service.client.execute(limits=runner_pb2.ExecutionLimits(max_model_calls=1))
    with pytest.raises(Exception, match="not in the log"):
        await service.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id="nobody"))
    service.process.send_signal(signal.SIGTERM)
    await service.ended()
    await collector.until("runner_service.v1.AgentRunnerService/GetExecution", "invoke_agent")

    (execution,) = collector.named("invoke_agent")
    assert execution.status.code == 2
    assert attributes(execution)["error.type"] == "LIMIT_EXCEEDED"
    (refused,) = collector.named("runner_service.v1.AgentRunnerService/GetExecution")
    assert attributes(refused)["rpc.response.status_code"] == "NOT_FOUND"
    assert refused.status.code == 0


async def test_log_lines_and_spans_say_whose_they_are_and_metrics_name_the_tenant(
    start_process: StartProcess, collector: Collector, tmp_path: Path
) -> None:
    callers = CallersYaml(tmp_path / "callers.yaml")
    token = bearer(callers.add("ci", "acme"))
    operator = "an-operators-own-token"
    service = await start_process(
        [turn("Let me see.", command("true")), turn("Done.")],
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        CALLERS_FILE=str(callers.path),
        AUTH_TOKEN=operator,
        METRICS_ADDRESS="127.0.0.1:0",
        LOG_FORMAT="json",
        STDERR="yes",
    )
    request = service.client.request(execution_id="nightly")
    await service.client.collect(service.stub.ExecuteAgent(request, metadata=token))
    asked = urllib.request.Request(metrics_url(tmp_path / "state"), headers={"Authorization": f"Bearer {operator}"})
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(asked, timeout=20).read().decode())
    service.process.send_signal(signal.SIGTERM)
    assert service.process.stderr is not None
    lines = [json.loads(line) for line in (await service.process.stderr.read()).splitlines()]
    await service.ended()
    await collector.until("runner_service.v1", "invoke_agent", "execute_tool")

    told = [line for line in lines if line["message"].startswith("execution_ended")]
    assert [(line["caller"], line["tenant"]) for line in told] == [("ci", "acme")]
    (server,) = collector.named("runner_service.v1.AgentRunnerService/ExecuteAgent")
    (execution,) = collector.named("invoke_agent")
    for span in (server, execution):
        assert attributes(span)["runner.caller"] == "ci"
        assert attributes(span)["runner.tenant"] == "acme"
    shown = Scrape(page)
    assert shown.value("runner_executions_finished_total", tenant="acme") == 1
    assert shown.value("runner_execution_duration_seconds_count", tenant="acme") == 1
    assert not [sample for sample in shown.samples if "ci" in sample.labels.values()]


async def test_a_secret_in_the_name_of_a_model_is_in_no_event_span_or_metric(
    start_process: StartProcess, collector: Collector, tmp_path: Path
) -> None:
    secret = "s3cr3t-v4lue-0f-the-caller"
    service = await start_process(
        [turn("Done.")], OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, METRICS_ADDRESS="127.0.0.1:0"
    )
    agent = runner_pb2.Agent(name="tester", instructions="Do it.", model=runner_pb2.Model(name=f"my-{secret}"))
    environment = {"TOKEN": runner_pb2.EnvironmentValue(value=secret, is_secret=True)}
    events = await service.client.execute(agent=agent, environment=environment)
    shown = await scrape(metrics_url(tmp_path / "state"))
    service.process.send_signal(signal.SIGTERM)
    await service.ended()
    await collector.until("invoke_agent", "chat")

    assert one(events, "started").model.name == "my-[redacted:secret]"
    assert shown.value("runner_model_call_duration_seconds_count", model="my-[redacted:secret]") == 1
    for each in (events, collector.spans, shown.samples):
        assert secret not in "".join(map(str, each))
