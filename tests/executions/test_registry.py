"""Which executions are in memory."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runner_service.events.writer import log_writer
from runner_service.executions.registry import Registry
from runner_service.identity import OwnerKey
from runner_service.redaction import Redactor
from runner_service.storage.event_log import Entry, EventLog, LogError, Rejection
from runner_service.storage.ownership import Claim
from runner_service.storage.sqlite.event_log import sqlite_event_log
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


class FullDisk:
    """A log that takes nothing until there is room."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.has_room = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def append(self, entries: Sequence[Entry], owners: Mapping[str, int]) -> Mapping[str, Rejection]:
        if not self.has_room:
            raise LogError("disk full")
        return await self._log.append(entries, owners)


async def test_an_execution_stays_in_memory_until_the_log_has_all_of_it(tmp_path: Path) -> None:
    """Dropped before, it would be looked up in a log that does not know it, or not its last events and state."""
    async with sqlite_event_log(tmp_path) as log:
        disk = FullDisk(log)
        written: EventLog = disk  # type: ignore[assignment]  # the rest is passed through
        async with log_writer(written) as writer:
            registry = Registry(written, writer)
            request = runner_pb2.ExecuteAgentRequest(execution_id="a")
            execution = registry.create(
                request, Redactor([]), claim=Claim("a", 0), fingerprint=b"f", stored_request=None
            )
            changes: list[Callable[[], object]] = [
                lambda: None,
                lambda: execution.publish_started(event_pb2.Started()),
                lambda: execution.finish(None),
            ]
            for change in changes:
                change()
                registry.drop_if_idle(execution)
                assert await registry.lookup(OwnerKey("a")) is execution

            disk.has_room = True
            await execution.stream.flush()
            registry.drop_if_idle(execution)

            restored = await registry.lookup(OwnerKey("a"))
            assert restored is not execution
            assert restored
            assert restored.is_final
            assert restored.stream.last_sequence == 2


async def test_a_changed_record_without_an_event_keeps_an_execution_in_memory_too(tmp_path: Path) -> None:
    async with sqlite_event_log(tmp_path) as log:
        disk = FullDisk(log)
        written: EventLog = disk  # type: ignore[assignment]  # as above
        async with log_writer(written) as writer:
            registry = Registry(written, writer)
            request = runner_pb2.ExecuteAgentRequest(execution_id="a")
            disk.has_room = True
            execution = registry.create(
                request, Redactor([]), claim=Claim("a", 0), fingerprint=b"f", stored_request=None
            )
            await execution.stream.flush()
            disk.has_room = False
            execution._change_state(event_pb2.STATE_INTERRUPTED)
            execution._store_record()
            registry.drop_if_idle(execution)

            assert await registry.lookup(OwnerKey("a")) is execution
            disk.has_room = True
