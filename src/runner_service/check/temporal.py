"""Checks Temporal with two calls: does it answer, and does it have the namespace."""

from datetime import timedelta
from importlib.util import find_spec

from runner_service.check.network import TIMEOUT_SECONDS
from runner_service.check.result import Check
from runner_service.settings import Settings

_ADDRESS = "TEMPORAL_SERVICE_ADDRESS"
_MAX_REASON_CHARACTERS = 300


async def temporal_check(settings: Settings) -> Check:
    """Asks for the namespace that the worker uses.

    An unreachable Temporal is a warning: the service works without it until it is there.
    """
    address = settings.temporal_service_address
    if find_spec("temporalio") is None:
        return Check(_ADDRESS, "warn", "the worker needs an extra", "install runner-service[temporal]")
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest  # noqa: PLC0415  # the extra may be missing
    from temporalio.service import RPCError, RPCStatusCode  # noqa: PLC0415  # as above

    from runner_service.temporal.connection import connect  # noqa: PLC0415  # as above

    try:
        client = await connect(settings)
        request = DescribeNamespaceRequest(namespace=settings.temporal_namespace)
        await client.workflow_service.describe_namespace(request, timeout=timedelta(seconds=TIMEOUT_SECONDS))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            text = f"{address} has no namespace {settings.temporal_namespace!r}"
            return Check("TEMPORAL_NAMESPACE", "fail", text, "create it, or correct TEMPORAL_NAMESPACE")
        if error.status in {RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED}:
            return Check("TEMPORAL_API_KEY", "fail", f"{address} does not accept it", "correct TEMPORAL_API_KEY")
        reason = error.message
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error)
    else:
        queue = settings.temporal_agent_execution_runner_task_queue
        return Check(_ADDRESS, "ok", f"{address} answers; activities are taken from {queue}")
    text = f"{address} cannot be reached: {reason[:_MAX_REASON_CHARACTERS]}"
    return Check(_ADDRESS, "warn", text, f"start what should listen there, or correct {_ADDRESS}")
