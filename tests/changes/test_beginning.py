"""When the files are looked at first: what makes no call costs no look."""

from typing import Any, cast

from runner_service.changes.tracker import ChangeTracker, tracked
from runner_service.changes.workspaces import Workspaces
from runner_service.executors.tracking import Handle


class Noted:
    """A `Tracking` that notes what it is asked for, and finds nothing."""

    place = "/somewhere"
    is_quiet = True

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def begin(self) -> None:
        self.asked.append("begin")

    async def written(self, handle: Handle) -> None:
        """Nothing was."""

    async def scan(self, handle: Handle) -> None:
        self.asked.append("scan")

    async def end(self) -> None:
        self.asked.append("end")


def tracker_of(tracking: Noted) -> ChangeTracker:
    return ChangeTracker(tracking, cast("Any", None), cast("Any", None), Workspaces(), ())


async def test_an_execution_that_ends_at_once_without_a_call_does_not_look_at_files() -> None:
    tracking = Noted()
    async with tracked(tracker_of(tracking), Workspaces()) as tracker:
        await tracker.finish(is_interrupted=False)
        assert await tracker.summary() is None
    assert tracking.asked == []


async def test_files_are_looked_at_before_the_first_call() -> None:
    tracking = Noted()
    async with tracked(tracker_of(tracking), Workspaces()) as tracker:
        await tracker.before_call()
        assert tracking.asked == ["begin"]
        tracker.call_ended("call-1", is_file_tool=False)
        await tracker.finish(is_interrupted=False)
    assert tracking.asked == ["begin", "scan", "end"]
