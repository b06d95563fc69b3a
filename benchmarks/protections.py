"""What confinement, tracking of changes and approvals cost together: a run of twenty calls with all on, and all off.

The scripted model thinks for a second before each call, as a fast model does. Whoever decides approves at once.
"""

import asyncio
import json
import tempfile
from pathlib import Path

import grpc

from benchmarks.changes import make_repository
from benchmarks.service import running_service
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

CALLS = 20
MODEL_SECONDS = 1.0
FILES = 1_000

_ON = {"SANDBOX_CONFINEMENT": "workspace", "SANDBOX_TRACK_CHANGES": "auto"}
_OFF = {"SANDBOX_CONFINEMENT": "none", "SANDBOX_TRACK_CHANGES": "off"}


def seconds(*, protected: bool) -> float:
    """Runs it once, in a repository of 1,000 files; returns how long the execution took."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as temporary:  # /tmp is another one in a cell
        base = Path(temporary)
        make_repository(base / "workspace", FILES)
        script = base / "script.yaml"
        script.write_text(json.dumps({"turns": [*map(_turn, range(CALLS)), {"text": "done"}]}))
        variables = {**(_ON if protected else _OFF), "STIGMER_LLM_SCRIPT": str(script), "HOME": temporary}
        with running_service(variables, directory=base) as service:
            return asyncio.run(_run(service.address, asks=protected))


def _turn(number: int) -> dict[str, object]:
    call = {"name": "execute", "args": {"command": f"echo {number} > d0/f0"}}
    return {"silence": MODEL_SECONDS, "tool_calls": [call]}


async def _run(address: str, *, asks: bool) -> float:
    """Runs the agent twice and returns the seconds of the second run: the first one loads the agent loop."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: runner_grpc.AgentRunnerServiceAsyncStub = runner_grpc.AgentRunnerServiceStub(channel)
        await _execute(stub, asks=asks, calls_limit=1)
        return await _execute(stub, asks=asks)


async def _execute(stub: "runner_grpc.AgentRunnerServiceAsyncStub", *, asks: bool, calls_limit: int = 0) -> float:
    mode = policy_pb2.APPROVAL_MODE_ASK_COMMANDS if asks else policy_pb2.APPROVAL_MODE_ALLOW
    request = runner_pb2.ExecuteAgentRequest(
        agent=runner_pb2.Agent(name="measured", instructions="Do it."),
        message="go",
        approval_policy=policy_pb2.ApprovalPolicy(mode=mode),
        limits=runner_pb2.ExecutionLimits(max_tool_calls=calls_limit),
    )
    ended, took = 0, 0.0
    async for response in stub.ExecuteAgent(request):
        for event in response.events:
            if event.HasField("approval_requested"):
                await stub.SubmitApproval(
                    runner_pb2.SubmitApprovalRequest(
                        execution_id=event.execution_id,
                        tool_call_id=event.approval_requested.tool_call_id,
                        action=event_pb2.APPROVAL_ACTION_APPROVE,
                    )
                )
            ended += event.HasField("tool_call_finished") and event.tool_call_finished.exit_code == 0
            took = event.finished.elapsed.ToNanoseconds() / 1e9 if event.HasField("finished") else took
    if not calls_limit and ended != CALLS:
        raise RuntimeError(f"{ended} of {CALLS} calls succeeded")
    return took
