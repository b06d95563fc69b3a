"""Approvals that were granted for a whole session: rules in the log that its later executions add to their policy."""

from runner_service.executions.execution import Execution
from runner_service.storage.event_log import EventLog
from runner_service.v1 import approval_policy_pb2 as policy_pb2


def store_session_grant(execution: Execution) -> None:
    """Stores what has been granted in an execution for its session."""
    rules = policy_pb2.ApprovalPolicy(rules=execution.approvals.session_rules)
    execution.stream.store_value(_name(execution.record.session_id), rules.SerializeToString())


async def granted_in_session(log: EventLog, session_id: str) -> list[policy_pb2.ApprovalRule]:
    """Returns the rules that were granted for a session. Raises LogError."""
    values = await log.find_values(_name(session_id))
    return [rule for value in values.values() for rule in policy_pb2.ApprovalPolicy.FromString(value).rules]


def _name(session_id: str) -> str:
    return f"approval-grants:{session_id}"
