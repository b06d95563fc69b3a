"""Watchers that do not read: what they cost, and whom they cost it."""

import asyncio
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import grpc
import psutil
import pytest
from tests.running import StartProcess, command, turn
from tests.scraping import metrics_url, scrape

from runner_service.api.unread_pages import UnreadPages
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc

MIB = 1024 * 1024
OWN_SMALL_BUFFERS = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    ("grpc.http2.bdp_probe", 0),  # or it would make room for a gigabyte of pages in this process
    ("grpc.http2.lookahead_bytes", 64 * 1024),
]


class Watcher:
    """A write that ends when it is told to, or when its watcher is disconnected."""

    def __init__(self, pages: UnreadPages, size: int, connection: str = "a") -> None:
        self.has_room = asyncio.Event()
        self.is_disconnected = False
        self._read = asyncio.Event()
        self.task = asyncio.create_task(self._write(pages, size, connection))

    async def _write(self, pages: UnreadPages, size: int, connection: str) -> None:
        with pages.lease(connection, self._disconnect) as lease:
            await lease.begin_write(size)
            self.has_room.set()
            await self._read.wait()

    def _disconnect(self) -> None:
        self.is_disconnected = True
        self._read.set()

    async def read(self) -> None:
        self._read.set()
        await self.task


async def test_pages_get_smaller_as_the_budget_is_used_up() -> None:
    pages = UnreadPages(max_bytes=32 * MIB, max_connection_bytes=32 * MIB)
    sizes = []
    with ExitStack() as leases:
        for _ in range(100):
            lease = leases.enter_context(pages.lease("a", lambda: None))
            sizes.append(lease.claim())
    assert sizes[0] == MIB
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 64 * 1024
    assert sum(sizes) < 34 * MIB
    assert pages.used == 0


async def test_without_room_the_watcher_that_has_read_nothing_for_longest_is_disconnected() -> None:
    pages = UnreadPages(max_bytes=2 * MIB, max_connection_bytes=2 * MIB)
    first, second = Watcher(pages, MIB), Watcher(pages, MIB, "b")
    await second.has_room.wait()
    third = Watcher(pages, MIB, "c")
    await asyncio.wait_for(third.has_room.wait(), 20)
    assert (first.is_disconnected, second.is_disconnected) == (True, False)
    assert pages.used == 2 * MIB
    for each in (second, third):
        await each.read()


async def test_a_watcher_waits_for_one_that_reads_and_nobody_is_disconnected() -> None:
    pages = UnreadPages(max_bytes=MIB, max_connection_bytes=MIB)
    first = Watcher(pages, MIB)
    await first.has_room.wait()
    second = Watcher(pages, MIB)
    await asyncio.sleep(0)
    assert not second.has_room.is_set()
    await first.read()
    await asyncio.wait_for(second.has_room.wait(), 20)
    assert not first.is_disconnected
    await second.read()


async def test_one_connection_cannot_use_what_is_there_for_the_others() -> None:
    pages = UnreadPages(max_bytes=8 * MIB, max_connection_bytes=2 * MIB)
    greedy = [Watcher(pages, MIB, "greedy") for _ in range(4)]
    await asyncio.gather(*(each.has_room.wait() for each in greedy[:2]))
    other = Watcher(pages, MIB, "other")
    await asyncio.wait_for(other.has_room.wait(), 20)
    await asyncio.gather(*(asyncio.wait_for(each.has_room.wait(), 20) for each in greedy))
    assert pages.used_by == {"greedy": 2 * MIB, "other": MIB}
    assert [each.is_disconnected for each in greedy] == [True, True, False, False]
    for each in (*greedy[2:], other):
        await each.read()


async def test_hundreds_of_watchers_that_do_not_read_cost_a_bounded_amount_that_comes_back(
    start_process: StartProcess, tmp_path: Path
) -> None:
    """Each would hold two copies of a page of 1 MiB: 300 of them 600 MB."""
    output = command("head -c 4000000 /dev/urandom | base64")
    service = await start_process([turn("", output), turn("Done.")], METRICS_ADDRESS="127.0.0.1:0")
    await service.client.execute(execution_id="long")
    metrics = metrics_url(tmp_path / "state")
    process = psutil.Process(service.process.pid)
    before = process.memory_info().rss

    async with AsyncExitStack() as channels:
        calls = []
        for _ in range(10):
            channel = await channels.enter_async_context(
                grpc.aio.insecure_channel(service.address, options=OWN_SMALL_BUFFERS)
            )
            stub: runner_grpc.AgentRunnerServiceAsyncStub = runner_grpc.AgentRunnerServiceStub(channel)
            calls += [stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="long")) for _ in range(30)]
        while (await scrape(metrics)).value("runner_watchers") < 200:
            await asyncio.sleep(0.1)
        assert process.memory_info().rss - before < 200 * MIB
        reader = await service.client.collect(
            service.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="long"))
        )
        assert reader[-1].HasField("finished")
        for call in calls:
            call.cancel()
    while (await scrape(metrics)).value("runner_watchers"):
        await asyncio.sleep(0.1)
    async with asyncio.timeout(30):
        while process.memory_info().rss - before > 60 * MIB:
            await asyncio.sleep(0.1)


@pytest.mark.long
async def test_nine_hundred_watchers_that_do_not_read_cost_a_third_of_what_they_did(
    start_process: StartProcess, tmp_path: Path
) -> None:
    """They cost 1.3 GB once. Whoever reads goes on meanwhile, and the memory comes back."""
    output = command("head -c 4000000 /dev/urandom | base64")
    service = await start_process([turn("", output), turn("Done.")], METRICS_ADDRESS="127.0.0.1:0")
    await service.client.execute(execution_id="long")
    metrics = metrics_url(tmp_path / "state")
    process = psutil.Process(service.process.pid)
    before = process.memory_info().rss
    watch = runner_pb2.WatchExecutionRequest(execution_id="long")

    async with AsyncExitStack() as channels:
        calls = []
        for _ in range(30):
            channel = await channels.enter_async_context(
                grpc.aio.insecure_channel(service.address, options=OWN_SMALL_BUFFERS)
            )
            stub: runner_grpc.AgentRunnerServiceAsyncStub = runner_grpc.AgentRunnerServiceStub(channel)
            calls += [stub.WatchExecution(watch) for _ in range(30)]
        most = 0
        for _ in range(30):
            most = max(most, process.memory_info().rss - before)
            assert (await service.client.collect(service.stub.WatchExecution(watch)))[-1].HasField("finished")
        assert most < 450 * MIB
        for call in calls:
            call.cancel()
    while (await scrape(metrics)).value("runner_watchers"):
        await asyncio.sleep(0.1)
    async with asyncio.timeout(60):
        while process.memory_info().rss - before > 100 * MIB:
            await asyncio.sleep(0.5)
