"""When the files are looked at first: what makes no call costs no look."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, cast

from runner_service.changes.tracker import ChangeTracker, tracked
from runner_service.changes.workspaces import Workspaces
from runner_service.executors.tracking import Handle
from runner_service.settings.machine import usable_cores


class Noted:
    """A `Tracking` that notes what it is asked for, and finds nothing."""

    place = "/somewhere"
    is_quiet = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.has_begun = asyncio.Event()

    async def begin(self) -> None:
        self.asked.append("begin")
        self.has_begun.set()

    async def written(self, handle: Handle) -> None:
        """Nothing was."""

    async def scan(self, handle: Handle) -> None:
        self.asked.append("scan")

    async def end(self) -> None:
        self.asked.append("end")


def tracker_of(tracking: Noted, workspaces: Workspaces | None = None) -> ChangeTracker:
    return ChangeTracker(tracking, cast("Any", None), cast("Any", None), workspaces or Workspaces(), ())


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


async def test_files_are_looked_at_while_the_model_thinks() -> None:
    tracking = Noted()
    async with tracked(tracker_of(tracking), Workspaces()):
        await tracking.has_begun.wait()


async def test_of_many_executions_only_those_with_calls_look_at_files() -> None:
    crowd, workspaces = [Noted() for _ in range(4 * usable_cores())], Workspaces()
    async with AsyncExitStack() as stack:
        trackers = [
            await stack.enter_async_context(tracked(tracker_of(each, workspaces), workspaces)) for each in crowd
        ]
        await asyncio.sleep(2.5)  # ten times the wait of an execution that has the machine for itself
        assert [each.asked for each in crowd] == [[]] * len(crowd)
        await trackers[0].before_call()
        assert [each.asked for each in crowd] == [["begin"]] + [[]] * (len(crowd) - 1)
