"""When an execution has to end, so that there is time left to report it and to complete its activity."""

import time
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError

from runner_service.storage.activities import OpenActivity

FOREVER_SECONDS = float(1 << 32)
"""Stands for a time-out that is not set."""

_MARGIN_SHARE = 0.1
_MIN_MARGIN_SECONDS = 5.0
_MAX_MARGIN_SECONDS = 10.0
_RPC_TIMEOUT = timedelta(seconds=10)


async def workflow_deadline(client: Client, opened: OpenActivity) -> float:
    """Returns the same for the time-out of the workflow. Asks Temporal; without an answer there is none."""
    if not opened.workflow_id:
        return FOREVER_SECONDS
    handle = client.get_workflow_handle(opened.workflow_id, run_id=opened.run_id)
    try:
        description = (await handle.describe(rpc_timeout=_RPC_TIMEOUT)).raw_description
    except RPCError:
        return FOREVER_SECONDS
    timeout = description.execution_config.workflow_run_timeout.ToNanoseconds() / 1e9
    started = description.workflow_execution_info.start_time.ToNanoseconds() / 1e9
    return before_expiry(started + timeout) if timeout else FOREVER_SECONDS


def seconds_of(duration: timedelta | None) -> float:
    """Returns a time-out in seconds."""
    return duration.total_seconds() if duration else FOREVER_SECONDS


def before_expiry(expiry: float) -> float:
    """Returns the Unix time at which an execution has to end that is completed before `expiry`."""
    left = max(0.0, expiry - time.time())
    margin = min(_MAX_MARGIN_SECONDS, max(_MIN_MARGIN_SECONDS, _MARGIN_SHARE * left))
    return expiry - min(margin, left / 2)
