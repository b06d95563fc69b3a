"""A client in plain gRPC: runs an agent and prints what it says and runs, through any number of disconnects.

python examples/python_client.py localhost:50051 "list the files"
"""

import asyncio
import sys
import uuid

import grpc

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc
from runner_service.v1 import execution_event_pb2 as event_pb2


def show(event: event_pb2.ExecutionEvent) -> None:
    match event.WhichOneof("event"):
        case "text_delta":
            print(event.text_delta.text, end="", flush=True)
        case "tool_call_started":
            print(f"\n[{event.tool_call_started.name}]")
        case "tool_output":
            print((event.tool_output.stdout or event.tool_output.stderr).decode(errors="replace"), end="", flush=True)
        case "finished":
            print(f"\n{event_pb2.State.Name(event.finished.state)} {event.finished.error.message}")


def is_disconnect(error: grpc.aio.AioRpcError) -> bool:
    """Behind a proxy a killed service is INTERNAL or UNKNOWN. What the service means by them has details."""
    has_details = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
    behind_proxy = error.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN} and not has_details
    return behind_proxy or error.code() == grpc.StatusCode.UNAVAILABLE


async def run(address: str, message: str) -> None:
    # An id of our own makes the call safe to repeat: the same id with the same request attaches instead of starting.
    request = runner_pb2.ExecuteAgentRequest(
        execution_id=uuid.uuid4().hex, agent=runner_pb2.Agent(name="example"), message=message
    )
    async with grpc.aio.insecure_channel(address) as channel:
        stub: runner_grpc.AgentRunnerServiceAsyncStub = runner_grpc.AgentRunnerServiceStub(channel)
        # By the id a proxy can send all calls about the execution to the same replica.
        metadata = (("x-execution-id", request.execution_id),)
        finished, owner = False, 0
        while not finished:
            try:
                async for response in stub.ExecuteAgent(request, metadata=metadata, wait_for_ready=True):
                    for event in response.events:
                        show(event)
                        owner = event.started.owner or owner
                        # Where to go on after a break, and whose event that was: with replicas it may be lost since.
                        request.after_sequence, request.after_owner = event.sequence, owner
                        if event.WhichOneof("event") in {"notice", "approval_decided"}:
                            request.after_owner = 0  # a new owner can publish these before its `started`
                        finished = event.HasField("finished")
            except grpc.aio.AioRpcError as error:
                if not is_disconnect(error):
                    raise
                print("\n(lost the service, attaching again)", file=sys.stderr)
                await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:3]))
