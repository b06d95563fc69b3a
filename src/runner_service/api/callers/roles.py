"""The role that each rpc needs. A method that is not in the table is refused, to operators as well."""

from collections.abc import Mapping

from runner_service.errors import PermissionDeniedError
from runner_service.identity import Caller, Role
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_SERVICE = runner_pb2.DESCRIPTOR.services_by_name["AgentRunnerService"].full_name

ROLE_OF_RPC: Mapping[str, Role] = {
    "ExecuteAgent": Role.RUN,  # attaching to an interrupted execution resumes it
    "WatchExecution": Role.WATCH,
    "GetExecution": Role.WATCH,
    "ListExecutions": Role.WATCH,
    "CancelExecution": Role.RUN,
    "DeleteExecution": Role.RUN,
    "DeleteSession": Role.RUN,
    "ReadToolOutput": Role.WATCH,
    "ListFileChanges": Role.WATCH,
    "GetDiff": Role.WATCH,
    "RevertChanges": Role.RUN,
    "SubmitApproval": Role.APPROVE,
    "ListApprovals": Role.WATCH,
    "WatchApprovals": Role.WATCH,
    "WhoAmI": Role.WATCH,
    "ListAudit": Role.OPERATE,
}
"""The role that an rpc of AgentRunnerService needs. Every new rpc is entered here."""

_INCLUDED: Mapping[Role, frozenset[Role]] = {
    Role.WATCH: frozenset({Role.WATCH}),
    Role.RUN: frozenset({Role.RUN, Role.WATCH}),
    Role.APPROVE: frozenset({Role.APPROVE, Role.WATCH}),
    Role.OPERATE: frozenset(Role),
}


def may_call(caller: Caller, rpc: str) -> bool:
    """Tells whether a caller has the role that an rpc of AgentRunnerService needs."""
    return any(ROLE_OF_RPC.get(rpc) in _INCLUDED[role] for role in caller.roles)


def require_role(caller: Caller, method: str) -> None:
    """Checks a caller's roles, by the path of the method alone. Methods of other services need no role.

    Raises:
        PermissionDeniedError: it has no role for the method.
    """
    service, _, rpc = method.removeprefix("/").partition("/")
    if service == _SERVICE and not may_call(caller, rpc):
        needed = ROLE_OF_RPC.get(rpc)
        raise PermissionDeniedError(
            f"{rpc} needs the role {needed.value}, which {caller.name} does not have"
            if needed
            else f"{rpc} is not open to anybody"
        )
