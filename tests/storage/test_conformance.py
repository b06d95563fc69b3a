"""What every implementation of the storage promises: in SQLite, in Redis, and one in memory that services share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tests.scale.redis_server import redis_8_path, redis_path, redis_server, valkey_path
from tests.storage.shared_log import SharedLog, SharedOwnership, SharedStore

from runner_service.errors import LogUnavailableEnd
from runner_service.events.stream import EventStream
from runner_service.events.writer import log_writer
from runner_service.identity import bare_id
from runner_service.storage.event_log import (
    Entry,
    EventLog,
    NewCall,
    NewChangeSet,
    NewEvent,
    NewExecution,
    NewOutput,
    NewRun,
    NewState,
    NewValue,
    Rejection,
)
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.execution_order import ExecutionOrder
from runner_service.storage.journal import CallResult, JournaledCall
from runner_service.storage.ownership import Claim, Ownership, interrupt_abandoned
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.backend import redis_storage
from runner_service.storage.sqlite.event_log import sqlite_event_log
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

SERVERS = {"redis": redis_path(), "redis 8": redis_8_path(), "valkey": valkey_path()}
IN_REDIS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(program is None, reason=f"{name} is not installed: see .ci/run"),
            *([pytest.mark.long] if name == "redis 8" else []),
        ],
    )
    for name, program in SERVERS.items()
]
"""The servers, as parameters of fixtures."""


@asynccontextmanager
async def opened(name: str, directory: Path) -> AsyncIterator[EventLog]:
    if name == "sqlite":
        async with sqlite_event_log(directory) as log:
            yield log
    elif name in SERVERS:
        async with (
            redis_server(directory, program=SERVERS[name]) as server,
            redis_storage(RedisAddress("127.0.0.1", server.port), changes_max_bytes=1 << 20) as storage,
        ):
            await storage.replicas.reach()
            yield storage.log
    else:
        yield SharedLog(SharedStore(), "only")


@pytest.fixture(params=["sqlite", "shared", *IN_REDIS])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventLog]:
    async with opened(request.param, tmp_path) as log:
        yield log


def execution(name: str, state: "event_pb2.State.ValueType" = event_pb2.STATE_RUNNING) -> NewExecution:
    return NewExecution(runner_pb2.Execution(execution_id=name, state=state), b"fingerprint")


def changed(name: str, state: "event_pb2.State.ValueType") -> NewState:
    return NewState(runner_pb2.Execution(execution_id=name, state=state))


async def test_events_and_output_come_back_in_order_from_any_position(log: EventLog) -> None:
    call = NewEvent("a", 3, b"<3>", tool_call_id="c")
    output = NewEvent("a", 4, b"<4>", NewOutput("a", "c", "stdout", b"out"))
    await log.append([execution("a"), NewEvent("a", 2, b"\x0a\x01x\x0a\x01y", count=2), call, output])

    assert await log.read("a", 0, 1 << 20) == (b"\x0a\x01x\x0a\x01y<3><4>out", 4)
    assert await log.read("a", 1, 1 << 20) == (b"\x0a\x01y<3><4>out", 4)
    assert await log.read("a", 2, 1) == (b"<3>", 3)
    assert (await log.read("a", 2, 1 << 20, with_output=False)).frames == b"<3>"
    assert await log.read("a", 4, 1) == (b"", 4)
    assert await log.read_output("a", "c", "stdout", 1, 10) == b"ut"
    assert await log.read_output("a", "unknown", "stdout", 0, 10) is None
    assert (await log.list_executions(ExecutionFilter(), limit=10)).executions[0].last_sequence == 4


async def test_all_executions_are_found_by_name_and_sorted_page_by_page(log: EventLog) -> None:
    for number, (name, agent) in enumerate([("a", "Writer"), ("b", "reader"), ("c", "writer"), ("Writ-d", "")]):
        record = runner_pb2.Execution(
            execution_id=f"acme~{name}",
            agent_name=agent,
            state=event_pb2.STATE_FAILED if name == "b" else event_pb2.STATE_SUCCEEDED,
            create_time=Timestamp(seconds=100 + number),
            start_time=Timestamp(seconds=1000),
            finish_time=Timestamp(seconds=1000 + (number * 7) % 10),
            usage=event_pb2.Usage(input_tokens=number % 2),
        )
        await log.append([NewExecution(record, b"fingerprint")])

    async def names(order: ExecutionOrder | None, name: str = "") -> list[str]:
        found: list[str] = []
        position = 0
        while True:
            page = await log.list_executions(ExecutionFilter(name=name), limit=2, before_key=position, order=order)
            found += [bare_id(each.execution_id) for each in page.executions]
            if not (position := page.next_key):
                return found

    assert await names(None, "wRIT") == ["Writ-d", "c", "a"]
    assert await names(None, "acme") == [], "the tenant is no part of the id"
    assert await names(ExecutionOrder(runner_pb2.EXECUTION_ORDER_CREATE_TIME, ascending=True)) == [*"abc", "Writ-d"]
    assert await names(ExecutionOrder(runner_pb2.EXECUTION_ORDER_DURATION)) == ["b", "c", "Writ-d", "a"]
    assert await names(ExecutionOrder(runner_pb2.EXECUTION_ORDER_TOKENS)) == ["Writ-d", "b", "c", "a"]
    assert await names(ExecutionOrder(runner_pb2.EXECUTION_ORDER_STATE), "r") == ["b", "Writ-d", "c", "a"]
    assert await names(ExecutionOrder(runner_pb2.EXECUTION_ORDER_AGENT_NAME, ascending=True), "writ") == [
        "Writ-d",
        "a",
        "c",
    ]
    for by in runner_pb2.ExecutionOrder.values()[1:]:
        assert sorted(await names(ExecutionOrder(by))) == ["Writ-d", *"abc"]


async def test_the_journal_tells_what_never_started_what_ended_and_what_is_unknown(log: EventLog) -> None:
    result = CallResult("msgpack", b"message", b"event")
    await log.append([execution("a"), NewRun("a", "run"), NewCall("a", "under-way"), NewCall("a", "ended")])
    await log.append([NewCall("a", "ended", result), NewEvent("a", 1, b"<finished>")])

    assert await log.run_id("a") == "run"
    assert await log.find_call("a", "never") is None
    assert await log.find_call("a", "under-way") == JournaledCall(None)
    assert await log.find_call("a", "ended") == JournaledCall(result)

    await log.append([changed("a", event_pb2.STATE_INTERRUPTED)])
    assert await log.find_call("a", "ended") == JournaledCall(result)
    await log.append([changed("a", event_pb2.STATE_SUCCEEDED)])
    assert await log.run_id("a") is None
    assert await log.find_call("a", "ended") is None


async def test_what_belongs_to_no_execution_is_rejected_and_the_rest_is_appended(log: EventLog) -> None:
    await log.append([execution("a")])
    entries: list[Entry] = [NewEvent("a", 1, b"<1>"), NewEvent("gone", 7, b"<7>"), NewValue("gone", "token", b"x")]

    assert await log.append([*entries, NewEvent("a", 2, b"<2>")]) == {"gone": Rejection.DELETED}
    assert await log.append([NewEvent("gone", 8, b"<8>")]) == {"gone": Rejection.DELETED}
    assert await log.read("a", 0, 100) == (b"<1><2>", 2)
    assert await log.find_values("token") == {}


async def test_an_id_that_was_pruned_can_be_used_again(log: EventLog) -> None:
    await log.append([execution("a"), NewEvent("a", 1, b"<old>"), NewRun("a", "old"), NewValue("a", "token", b"old")])
    await log.append([changed("a", event_pb2.STATE_INTERRUPTED)])
    assert await log.prune(max_age=-1, max_bytes=1 << 30) == 1
    assert await log.append([NewEvent("a", 2, b"<late>")]) == {"a": Rejection.DELETED}

    assert await log.append([execution("a"), NewEvent("a", 1, b"<new>")]) == {}
    assert await log.read("a", 0, 100) == (b"<new>", 1)
    assert await log.run_id("a") is None
    assert await log.find_values("token") == {}


async def test_an_execution_is_deleted_alone_and_with_all_that_is_its_own(log: EventLog) -> None:
    await log.append([execution("a"), NewEvent("a", 1, b"<a>"), NewRun("a", "run"), NewValue("a", "token", b"x")])
    await log.append([execution("b"), NewEvent("b", 1, b"<b>")])
    assert await log.delete("a")
    assert not await log.delete("a")
    assert await log.append([NewEvent("a", 2, b"<late>")]) == {"a": Rejection.DELETED}
    assert await log.get("a") is None
    assert await log.run_id("a") is None
    assert await log.find_values("token") == {}
    assert await log.read("b", 0, 100) == (b"<b>", 1)


async def test_values_are_found_by_their_name_and_removed_by_anybody(log: EventLog) -> None:
    await log.append([execution("a"), NewValue("a", "token", b"1"), NewValue("a", "other", b"2")])
    await log.append([execution("b"), NewValue("b", "token", b"3")])
    assert await log.find_values("token") == {"a": b"1", "b": b"3"}
    await log.remove_values("token", ["a", "none"])
    await log.remove_values("token", [])
    assert await log.find_values("token") == {"b": b"3"}
    assert await log.find_values("other") == {"a": b"2"}
    await log.append([NewValue("b", "token", None), NewValue("a", "token", b"4")])
    assert await log.find_values("token") == {"a": b"4"}


async def test_change_sets_come_back_in_order_and_go_with_their_execution(log: EventLog) -> None:
    await log.append([execution("a"), NewEvent("a", 1, b"<1>"), NewChangeSet("a", 1, b"first")])
    await log.append([NewChangeSet("a", 9, b"second"), NewChangeSet("a", 9, b"third"), execution("b")])
    assert await log.change_sets("a") == [(1, b"first"), (9, b"second"), (9, b"third")]
    assert await log.change_sets("b") == await log.change_sets("none") == []
    assert await log.append([NewChangeSet("gone", 1, b"late")]) == {"gone": Rejection.DELETED}
    await log.delete("a")
    assert await log.change_sets("a") == []


async def test_what_an_execution_stores_is_measured_with_output_that_has_no_event(log: EventLog) -> None:
    call = NewEvent("a", 1, b"<call>", tool_call_id="c")
    output = NewEvent("a", 2, b"<out>", NewOutput("a", "c", "stdout", b"in time"))
    await log.append([execution("a"), call, output, NewOutput("a", "c", "stderr", b"late"), execution("b")])
    assert await log.stored_bytes("a") == len(b"<call><out>in timelate")
    assert await log.stored_bytes("b") == await log.stored_bytes("unknown") == 0


async def test_a_stream_whose_execution_is_gone_ends_with_the_reason(log: EventLog) -> None:
    ends: list[LogUnavailableEnd] = []
    async with log_writer(log) as writer:
        stream = EventStream("gone", writer, log)
        stream.on_break = ends.append
        stream.publish(event_pb2.TextDelta(text="too late"))
        await stream.flush()
        with pytest.raises(LogUnavailableEnd, match="deleted from the log"):
            await stream.wait_for_capacity()
        assert stream.is_flushed
        stream.publish(event_pb2.TextDelta(text="and later"))
    assert [end.code for end in ends] == ["LOG_UNAVAILABLE"]


class Service:
    """Of several that share a store."""

    def __init__(self, store: SharedStore, name: str) -> None:
        self.log: EventLog = SharedLog(store, name)
        self.ownership: Ownership = SharedOwnership(store, name)

    async def claim(self, execution_id: str) -> Claim:
        claim = await self.ownership.claim(execution_id)
        assert claim
        return claim


async def test_only_executions_of_a_dead_service_are_interrupted_and_claimed() -> None:
    store = SharedStore()
    one, two = Service(store, "one"), Service(store, "two")
    for service, name in ((one, "a"), (two, "b")):
        claim = await service.claim(name)
        await service.log.append([execution(name)], {name: claim.token})
    store.alive.remove("one")

    await interrupt_abandoned(two.log, two.ownership)

    states = {name: stored.execution.state for name in ("a", "b") if (stored := await two.log.get(name))}
    assert states == {"a": event_pb2.STATE_INTERRUPTED, "b": event_pb2.STATE_RUNNING}
    assert await one.ownership.claim("b") is None
    assert (await two.claim("a")).token == 2


async def test_an_owner_that_was_superseded_appends_nothing_more() -> None:
    store = SharedStore()
    one, two = Service(store, "one"), Service(store, "two")
    claim = await one.claim("a")
    async with log_writer(one.log) as writer, log_writer(two.log) as other_writer:
        stream = EventStream("a", writer, one.log)
        stream.owner_token = claim.token
        stream.append(execution("a"), 0)
        stream.publish(event_pb2.TextDelta(text="mine"))
        await stream.flush()

        store.alive.remove("one")
        successor = EventStream("a", other_writer, two.log, last_sequence=1)
        successor.owner_token = (await two.claim("a")).token
        successor.publish(event_pb2.TextDelta(text="yours"))
        await successor.flush()
        stream.publish(event_pb2.TextDelta(text="mine, I think"))
        await stream.flush()

        with pytest.raises(LogUnavailableEnd, match="another process owns"):
            await stream.wait_for_capacity()
        page = await two.log.read("a", 0, 1 << 20)
    events = runner_pb2.ExecuteAgentResponse.FromString(page.frames).events
    assert [event.text_delta.text for event in events] == ["mine", "yours"]


async def test_a_watcher_sees_what_another_service_publishes() -> None:
    store = SharedStore()
    one, two = Service(store, "one"), Service(store, "two")
    claim = await one.claim("a")
    async with log_writer(one.log) as writer, log_writer(two.log) as other_writer:
        stream = EventStream("a", writer, one.log)
        stream.owner_token = claim.token
        stream.append(execution("a"), 0)
        remote = EventStream("a", other_writer, two.log)
        remote.is_remote = True
        seen: list[str] = []
        with remote.followed():
            for text in ("one", "two", "three"):
                stream.publish(event_pb2.TextDelta(text=text))
                page = await remote.page(remote, len(seen), timeout_seconds=10)
                assert page
                events = runner_pb2.ExecuteAgentResponse.FromString(page.frames).events
                seen += [event.text_delta.text for event in events]
            stream.publish(event_pb2.Finished())
            stream.append(changed("a", event_pb2.STATE_SUCCEEDED), 0)
            last = await remote.page(remote, 3, timeout_seconds=10)
            assert last
            assert last.last == 4
            assert await remote.page(remote, 4, timeout_seconds=10) is None
    assert seen == ["one", "two", "three"]
    assert not store.subscribers["a"]


async def test_a_store_that_has_lost_its_newest_events_is_given_them_again_by_their_owner() -> None:
    store = SharedStore()
    one = Service(store, "one")
    claim = await one.claim("a")
    async with log_writer(one.log) as writer:
        stream = EventStream("a", writer, one.log)
        stream.owner_token = claim.token
        stream.append(execution("a"), 0)
        for text in ("one", "two", "three"):
            stream.publish(event_pb2.TextDelta(text=text))
            await stream.flush()
        before = await one.log.read("a", 0, 1 << 20)
        store.lose_events("a", above=1)
        stream.publish(event_pb2.TextDelta(text="four"))
        await stream.flush()
    page = await one.log.read("a", 0, 1 << 20)
    assert page.last == 4
    assert page.frames.startswith(before.frames)


async def test_an_execution_ends_when_nobody_has_the_events_that_the_store_has_lost() -> None:
    store = SharedStore()
    one, two = Service(store, "one"), Service(store, "two")
    claim = await one.claim("a")
    events = [NewEvent("a", 1, b"<1>"), NewEvent("a", 2, b"<2>")]
    await one.log.append([execution("a"), *events], {"a": claim.token})
    store.alive.remove("one")
    store.lose_events("a", above=1)

    async with log_writer(two.log) as writer:
        successor = EventStream("a", writer, two.log, last_sequence=2)
        successor.owner_token = (await two.claim("a")).token
        successor.publish(event_pb2.TextDelta(text="three"))
        await successor.flush()
        with pytest.raises(LogUnavailableEnd, match="has lost events"):
            await successor.wait_for_capacity()
    assert (await two.log.read("a", 0, 100)).last == 1
