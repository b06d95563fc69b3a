"""Quotas of tenants: what is used up is told as a quota, others are not slowed, and a restart forgets nothing."""

import asyncio
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # it has types, but no marker
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.callers.files import CallersYaml, bearer
from tests.callers.test_recognition import endless
from tests.probe import failure_of, serving
from tests.running import Client, StartService, command, one, turn

from runner_service import states
from runner_service.errors import QuotaExceededEnd, QuotaExceededError
from runner_service.executions.queue import ExecutionQueue, Slot
from runner_service.executions.tenant_limits import TenantLimits, Tenants
from runner_service.executions.tenant_retention import prune_tenant
from runner_service.executions.tenant_usage import TenantUsage
from runner_service.storage.event_log import NewExecution
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.sqlite.backend import sqlite_storage
from runner_service.storage.sqlite.read_only_log import read_only_log
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


def details_of(error: grpc.aio.AioRpcError) -> tuple[Any, bool]:
    """Returns the QuotaFailure's violation, and whether there is a RetryInfo."""
    status = rpc_status.from_call(cast(Any, error))
    assert status is not None
    quota, has_retry = error_details_pb2.QuotaFailure(), False
    for detail in status.details:
        detail.Unpack(quota)
        has_retry = has_retry or detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    return quota.violations[0], has_retry


def only_tenant(callers: CallersYaml, **limits: Any) -> Any:
    """Writes a file with one tenant, acme, and returns the metadata of its caller."""
    callers.content["tenants"] = {"acme": limits}
    return bearer(callers.add("ci", "acme"))


def admitted(queue: ExecutionQueue, tenant: str, order: list[str]) -> Slot:
    slot = queue.enqueue("", lambda _: None, f"{tenant}~1")
    slot_admit = slot.admit

    def admit() -> None:
        order.append(tenant)
        slot_admit()

    slot.admit = admit  # type: ignore[method-assign]  # to see the order
    return slot


def drained(queue: ExecutionQueue, slots: list[Slot]) -> None:
    waiting = list(slots)
    while waiting:
        first = next(each for each in waiting if each.is_admitted)
        waiting.remove(first)
        queue.release(first)


async def test_a_tenant_that_comes_late_is_next_and_weights_share_the_turns() -> None:
    tenants = Tenants({"big": TenantLimits(weight=3), "small": TenantLimits(weight=1)})
    queue = ExecutionQueue(max_running=1, max_queued=5000, tenants=tenants)
    order: list[str] = []
    first = [admitted(queue, "default", order) for _ in range(1000)]
    late = admitted(queue, "late", order)
    drained(queue, [*first, late])
    assert order.index("late") <= 1

    order.clear()
    both = [admitted(queue, name, order) for name in ("big", "small") for _ in range(200)]
    drained(queue, both)
    assert 148 <= order[:200].count("big") <= 152
    assert (queue.running, queue.queued) == (0, 0)


async def test_idle_turns_save_nothing_up() -> None:
    queue = ExecutionQueue(max_running=1, max_queued=5000)
    order: list[str] = []
    for _ in range(300):
        drained(queue, [admitted(queue, "busy", order)])
    order.clear()
    both = [admitted(queue, name, order) for _ in range(50) for name in ("busy", "idle")]
    drained(queue, both)
    assert 24 <= order[:50].count("idle") <= 26


async def test_a_tenant_at_its_running_quota_stands_aside_and_positions_are_its_own() -> None:
    queue = ExecutionQueue(max_running=3, max_queued=9, tenants=Tenants({"acme": TenantLimits(running=1, queued=2)}))
    told: list[str] = []
    slots = [queue.enqueue("", lambda notice: told.append(notice.text), "acme~1") for _ in range(3)]
    other = queue.enqueue("", lambda _: None, "globex~1")
    assert [each.is_admitted for each in (*slots, other)] == [True, False, False, True]
    assert told == ["waits for its turn, at position 1 of the queue", "waits for its turn, at position 2 of the queue"]
    with pytest.raises(QuotaExceededError, match="the tenant acme may have no more: its quota queued is 2"):
        await queue.require_room("", "acme")
    await queue.require_room("", "globex")
    queue.release(slots[0])
    assert slots[1].is_admitted
    assert not slots[2].is_admitted


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "s"]), st.integers(0, 5)), max_size=40))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_whatever_comes_and_goes_the_queue_counts_right_and_keeps_every_quota(steps: Any) -> None:
    async def play() -> None:
        limits = {"a": TenantLimits(running=1), "b": TenantLimits(running=2, weight=3)}
        queue = ExecutionQueue(max_running=3, max_queued=100, tenants=Tenants(limits))
        slots: list[Slot] = []
        for tenant, session, action in steps:
            if action < 3 or not slots:
                slots.append(queue.enqueue(session and f"{tenant}~{session}", lambda _: None, f"{tenant}~1"))
            elif action == 3 and slots[0].is_admitted and not slots[0].is_parked:
                slots[0].park()
                slots[0] = slots[0].unpark()
            else:
                queue.release(slots.pop(action % len(slots)))
            running = [each.tenant for each in slots if each.is_admitted]
            assert queue.running == len(running) <= 3
            assert queue.queued == len(slots) - len(running)
            assert running.count("a") <= 1
            assert running.count("b") <= 2
        drained_count = len(slots)
        for each in slots:
            queue.release(each)
        assert (queue.running, queue.queued) == (0, 0), drained_count

    asyncio.run(play())


async def run(client: Client, metadata: Any, **fields: Any) -> list[Any]:
    return await client.collect(client.stub.ExecuteAgent(client.request(**fields), metadata=metadata))


async def test_starts_in_a_minute_are_counted_across_a_restart(
    start: StartService, callers: CallersYaml, tmp_path: Path
) -> None:
    metadata = only_tenant(callers, quotas={"starts_per_minute": 2})
    client = await start([turn("done")], CALLERS_FILE=str(callers.path))
    await run(client, metadata)
    await run(client, metadata)
    error = await failure_of(run(client, metadata))
    violation, has_retry = details_of(error)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (violation.subject, violation.quota_metric) == ("tenant:acme", "starts_per_minute")
    assert (violation.quota_value, has_retry) == (2, True)
    with read_only_log(tmp_path / "state", is_held=True) as log:
        assert len(list(log.list(ExecutionFilter(tenant="acme")))) == 2


async def test_the_starts_of_the_last_minute_and_the_tokens_of_the_day_outlive_the_process(tmp_path: Path) -> None:
    tenants = Tenants({"acme": TenantLimits(starts_per_minute=1, tokens_per_day=100)})
    async with sqlite_storage(tmp_path) as storage:
        record = runner_pb2.Execution(execution_id="acme~1", state=states.SUCCEEDED)
        record.create_time.GetCurrentTime()
        await storage.log.append([NewExecution(record, b"")])
        usage = TenantUsage(tenants, storage.usage)
        await usage.add_tokens("acme", 60)
        await usage.add_tokens("globex", 1000)
        await usage.require_tokens("acme")
    async with sqlite_storage(tmp_path) as storage:
        usage = TenantUsage(tenants, storage.usage)
        with pytest.raises(QuotaExceededError, match="starts_per_minute"):
            await usage.require_start("acme")
        await usage.require_start("globex")
        await usage.add_tokens("acme", 40)
        with pytest.raises(QuotaExceededEnd, match="100 tokens of today"):
            await usage.require_tokens("acme")
        with pytest.raises(QuotaExceededError, match="tokens_per_day") as refused:
            await usage.require_start("acme")
        assert refused.value.retry_delay is None


async def test_a_day_that_is_used_up_ends_what_runs_and_refuses_what_starts(
    start: StartService, callers: CallersYaml
) -> None:
    metadata = only_tenant(callers, quotas={"tokens_per_day": 100})
    heavy = {"usage": {"input_tokens": 90, "output_tokens": 20}}
    client = await start([turn("", command("true"), **heavy), turn("done")], CALLERS_FILE=str(callers.path))
    finished = one(await run(client, metadata), "finished")
    assert (finished.state, finished.error.code) == (event_pb2.STATE_FAILED, "QUOTA_EXCEEDED")
    violation, has_retry = details_of(await failure_of(run(client, metadata)))
    assert (violation.quota_metric, violation.quota_value, has_retry) == ("tokens_per_day", 100, False)


async def test_a_request_may_ask_for_less_than_its_tenant_has_and_not_for_more(
    start: StartService, callers: CallersYaml
) -> None:
    metadata = only_tenant(callers, at_most={"timeout": "1h", "max_output_bytes": "1KiB", "max_model_calls": 1})
    client = await start([turn("", command("head -c 5000 /dev/zero"))] * 9, CALLERS_FILE=str(callers.path))
    asked = runner_pb2.ExecutionLimits(timeout=Duration(seconds=3601), max_output_bytes=1025)
    error = await failure_of(run(client, metadata, limits=asked))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").split("; ") == [
        "limits.timeout: must be at most 3600 s for this tenant",
        "limits.max_output_bytes: must be at most 1024 for this tenant",
    ]
    events = await run(client, metadata)
    assert one(events, "tool_call_finished").dropped_bytes == 5000 - 1024
    assert one(events, "finished").error.code == "LIMIT_EXCEEDED"


async def test_open_calls_are_limited_per_tenant_and_a_lowered_quota_ends_nothing(callers: CallersYaml) -> None:
    metadata = only_tenant(callers, quotas={"open_calls": 2})
    other = bearer(callers.add("other", "globex"))
    async with serving(stream=endless, CALLERS_FILE=str(callers.path)) as probe:
        calls = [probe.watch("x", metadata=metadata) for _ in range(2)]
        for call in calls:
            await call.read()
        error = await failure_of(_first(probe.watch("x", metadata=metadata)))
        assert details_of(error)[0].quota_metric == "open_calls"
        free = probe.watch("x", metadata=other)
        await free.read()
        calls[0].cancel()
        async with asyncio.timeout(60):
            while True:
                again = probe.watch("x", metadata=metadata)
                try:
                    await again.read()
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.02)
        again.cancel()
        free.cancel()
        calls[1].cancel()


async def _first(call: Any) -> None:
    await call.read()


async def test_what_a_tenant_keeps_too_much_of_is_its_own_oldest(tmp_path: Path) -> None:
    async with sqlite_storage(tmp_path) as storage:
        for tenant in ("acme", "globex"):
            for number in range(4):
                record = runner_pb2.Execution(execution_id=f"{tenant}~{number}", state=states.SUCCEEDED)
                record.usage.stored_bytes = 100
                await storage.log.append([NewExecution(record, b"")])
        running = runner_pb2.Execution(execution_id="acme~running", state=states.RUNNING)
        running.usage.stored_bytes = 1000
        await storage.log.append([NewExecution(running, b"")])
        assert await prune_tenant(storage.log, "acme", 1250) == 2
        page = await storage.log.list_executions(ExecutionFilter(), limit=50)
        kept = [each.execution_id for each in page.executions if each.execution_id.startswith("acme")]
        assert kept == ["acme~running", "acme~3", "acme~2"]
        assert len(page.executions) == 7
