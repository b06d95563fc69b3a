"""An activity as Temporal has handed it over: to this process, or to an earlier one that did not live to store it."""

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio import activity
from temporalio.api.history.v1 import ActivityTaskScheduledEventAttributes
from temporalio.api.workflow.v1 import PendingActivityInfo

from runner_service.storage.activities import AnnouncedWorkflow
from runner_service.temporal.deadline import FOREVER_SECONDS, before_expiry, seconds_of


@dataclass(frozen=True, slots=True)
class Handover:
    """Identifies an activity and tells its limits. Without a task token it is completed by its ids."""

    workflow_id: str
    run_id: str
    activity_id: str
    task_token: bytes
    deadline: float
    """Unix time at which the execution has to end."""
    heartbeat_timeout_seconds: float


def current_handover() -> Handover:
    """Returns that of the activity that the caller runs in."""
    info = activity.info()
    expiry = min(
        info.started_time.timestamp() + seconds_of(info.start_to_close_timeout),
        info.scheduled_time.timestamp() + seconds_of(info.schedule_to_close_timeout),
    )
    return Handover(
        workflow_id=info.workflow_id or "",
        run_id=info.workflow_run_id or "",
        activity_id=info.activity_id,
        task_token=info.task_token,
        deadline=before_expiry(expiry),
        heartbeat_timeout_seconds=seconds_of(info.heartbeat_timeout),
    )


def earlier_handover(
    workflow: AnnouncedWorkflow, pending: PendingActivityInfo, scheduled: ActivityTaskScheduledEventAttributes
) -> Handover:
    """Returns that of an activity which was handed to an earlier process."""
    expiry = min(
        _seconds(pending.last_started_time) + (_seconds(scheduled.start_to_close_timeout) or FOREVER_SECONDS),
        _seconds(pending.scheduled_time) + (_seconds(scheduled.schedule_to_close_timeout) or FOREVER_SECONDS),
    )
    return Handover(
        workflow_id=workflow.workflow_id,
        run_id=workflow.run_id,
        activity_id=pending.activity_id,
        task_token=b"",
        deadline=before_expiry(expiry),
        heartbeat_timeout_seconds=_seconds(scheduled.heartbeat_timeout) or FOREVER_SECONDS,
    )


def _seconds(value: Duration | Timestamp) -> float:
    return value.ToNanoseconds() / 1e9
