"""Runs an agent in a workflow, and prints its events meanwhile.

TEMPORAL_SERVICE_ADDRESS=localhost:7233 TASK_QUEUE=agents runner-service serve    # elsewhere, with MODE=local
python -m examples.temporal.run "List the files here."
"""

import asyncio
import os
import sys
import uuid

import grpc
from examples.temporal.workflow import AgentTask, RunAgent
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from runner_service.client import RunnerClient

WORKFLOW_QUEUE = "example-workflows"


async def stream(address: str, execution_id: str) -> None:
    """Prints what the agent says and calls. The execution may not have started yet."""
    async with RunnerClient(address) as runner:
        while True:
            try:
                async for event in runner.watch(execution_id):
                    if event.HasField("text_delta"):
                        print(event.text_delta.text, end="", flush=True)
                    elif event.HasField("tool_call_started"):
                        print(f"\n[{event.tool_call_started.name}]")
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                await asyncio.sleep(0.5)
            else:
                return


async def main(message: str) -> None:
    """Starts the workflow in a worker of its own, and follows it."""
    client = await Client.connect(os.environ.get("TEMPORAL_SERVICE_ADDRESS", "localhost:7233"))
    task = AgentTask(message, task_queue=os.environ.get("TASK_QUEUE", "agents"))
    async with Worker(client, task_queue=WORKFLOW_QUEUE, workflows=[RunAgent]):
        handle: WorkflowHandle[RunAgent, str] = await client.start_workflow(
            RunAgent.run, task, id=f"example-{uuid.uuid4().hex[:8]}", task_queue=WORKFLOW_QUEUE
        )
        execution_id = await handle.query(RunAgent.execution_id)
        streaming = asyncio.create_task(stream(os.environ.get("LISTEN_ADDRESS", "localhost:50051"), execution_id))
        answer = await handle.result()
        await streaming
    print(f"\n\n{answer}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
