"""Runs an agent whose commands wait for a person, and asks that person here.

python examples/approvals.py localhost:50051 "tidy up"
"""

import asyncio
import sys

from runner_service.client import RunnerClient
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

POLICY = policy_pb2.ApprovalPolicy(
    mode=policy_pb2.APPROVAL_MODE_ASK_COMMANDS,
    rules=[
        policy_pb2.ApprovalRule(
            verdict=policy_pb2.APPROVAL_VERDICT_ALLOW, command=policy_pb2.CommandPrefix(words=["ls"])
        ),
        policy_pb2.ApprovalRule(
            verdict=policy_pb2.APPROVAL_VERDICT_DENY,
            command=policy_pb2.CommandPrefix(words=["git", "push"]),
            reason="pushing is for people",
        ),
    ],
)


async def decide(client: RunnerClient, execution_id: str, asked: event_pb2.ApprovalRequested) -> None:
    # Whoever comes later may decide as well: `client.list_approvals()` has what waits.
    answer = await asyncio.to_thread(input, f"run `{asked.arguments['command']}`? [y/n] ")
    approved = answer.strip().lower() == "y"
    await client.submit_approval(
        runner_pb2.SubmitApprovalRequest(
            execution_id=execution_id,
            tool_call_id=asked.tool_call_id,
            generation=asked.generation,
            action=event_pb2.APPROVAL_ACTION_APPROVE if approved else event_pb2.APPROVAL_ACTION_REJECT,
            comment="" if approved else "not now",
        )
    )


async def run(address: str, message: str) -> None:
    request = runner_pb2.ExecuteAgentRequest(
        agent=runner_pb2.Agent(name="example"), message=message, approval_policy=POLICY
    )
    async with RunnerClient(address) as client:
        async for event in client.execute(request):
            match event.WhichOneof("event"):
                case "approval_requested":
                    await decide(client, event.execution_id, event.approval_requested)
                case "tool_output":
                    print(event.tool_output.stdout.decode(errors="replace"), end="", flush=True)
                case "finished":
                    print(f"{event_pb2.State.Name(event.finished.state)} {event.finished.output}")


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:3]))
