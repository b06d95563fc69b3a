"""One trace from the caller of a workflow to the commands of its agent."""

import uuid

from examples.temporal.workflow import AgentTask, RunAgent
from opentelemetry.sdk.trace import TracerProvider
from temporalio.client import Client
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from tests.collector import attributes, collecting
from tests.running import StartProcess, command, turn
from tests.temporal.server import TemporalServer, needs_temporal

pytestmark = needs_temporal


async def test_the_commands_of_an_agent_are_in_the_trace_of_who_started_the_workflow(
    start_process: StartProcess, temporal: TemporalServer, queue: str
) -> None:
    callers = f"workflows-{queue}"
    tracer = TracerProvider().get_tracer("caller")
    client = await Client.connect(temporal.address, interceptors=[TracingInterceptor(tracer)])
    async with (
        collecting() as collector,
        Worker(client, task_queue=callers, workflows=[RunAgent], workflow_runner=UnsandboxedWorkflowRunner()),
    ):
        await start_process(
            [turn("", command("echo hi")), turn("Done.")],
            TEMPORAL_SERVICE_ADDRESS=temporal.address,
            TASK_QUEUE=queue,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )
        with tracer.start_as_current_span("caller") as caller:
            task = AgentTask("go", task_queue=queue)
            await client.execute_workflow(RunAgent.run, task, id=uuid.uuid4().hex, task_queue=callers)
        spans = await collector.spans(5)

    trace_id = caller.get_span_context().trace_id.to_bytes(16, "big")
    assert {span.trace_id for span in spans} == {trace_id}
    names = [span.name for span in spans]
    assert names[0] == "RunActivity:ExecuteAgent"
    assert "execute_tool execute" in names
    [tool] = [span for span in spans if span.name == "execute_tool execute"]
    assert attributes(tool)["process.exit.code"] == 0
