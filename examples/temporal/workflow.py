"""Runs an agent in a workflow that survives kills of everything, forwards a cancel, and says where to stream from."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError


@dataclass
class AgentTask:
    """What the agent is to do, and the task queue of runner-service."""

    message: str
    instructions: str = "Do what the user asks."
    task_queue: str = "agent_execution_runner"
    minutes: float = 30


@workflow.defn
class RunAgent:
    """Runs one agent as an activity of runner-service."""

    @workflow.query
    def execution_id(self) -> str:
        """The id to call WatchExecution of runner-service with, while the agent runs and after."""
        return f"run-agent-{workflow.info().workflow_id}"

    @workflow.run
    async def run(self, task: AgentTask) -> str:
        """Returns the agent's answer."""
        event: dict[str, Any] = await workflow.execute_activity(
            "ExecuteAgent",
            {
                "execution_id": self.execution_id(),  # the same for each attempt, so that a later one attaches
                "agent": {"name": "example", "instructions": task.instructions},
                "message": task.message,
            },
            task_queue=task.task_queue,
            start_to_close_timeout=timedelta(minutes=task.minutes),
            heartbeat_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_attempts=3),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        finished = event["finished"]
        if finished["state"] != "STATE_SUCCEEDED":
            error = finished.get("error", {})
            raise ApplicationError(error.get("message", finished["state"]), type=error.get("code"))
        return str(finished.get("output", ""))
