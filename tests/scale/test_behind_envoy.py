"""Replicas behind Envoy with deploy/envoy.yaml, of which only the addresses are changed."""

import asyncio
import shutil
import signal
import subprocess
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest
import yaml
from tests.proxies.proxies import program_path
from tests.proxies.test_breaks import go_client
from tests.running import command, kinds, one, stdout_of, text_of, turn
from tests.scale.envoy import CONFIGURATION, running_envoy
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import BEGUN_AND_WAITS, Deployment, Event, resumed
from tests.scraping import metrics_url, scrape

from runner_service.api import servicer
from runner_service.client import RunnerClient
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

__all__ = ["go_client"]

pytestmark = [
    needs_redis,
    pytest.mark.skipif(program_path("envoy") is None, reason="envoy is missing: requirements/proxies.txt has it"),
]


def envoy_before(deployment: Deployment, directory: Path) -> AbstractAsyncContextManager[str]:
    """Runs Envoy in front of the replicas; gives its address."""
    return running_envoy([each.address for each in deployment.replicas], directory)


async def replica_that_runs(deployment: Deployment, directory: Path) -> int:
    """Returns the replica that runs the only execution."""
    for number in range(len(deployment.replicas)):
        page = await scrape(metrics_url(directory / f"state-{number}"))
        if page.value("runner_executions", state="running"):
            return number
    raise AssertionError("no replica runs anything")


class Followed:
    """Collects what a client sees of an execution, in a task of its own."""

    def __init__(self, client: RunnerClient, request: runner_pb2.ExecuteAgentRequest, *, starts: bool) -> None:
        self._stream = client.execute(request) if starts else client.watch(request.execution_id)
        self.events: list[Event] = []
        self._grown = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> list[Event]:
        async for event in self._stream:
            self.events.append(event)
            self._grown.set()
        assert [each.sequence for each in self.events] == list(range(1, len(self.events) + 1))
        return self.events

    async def until(self, wanted: str) -> None:
        """Waits for an event of a kind."""
        async with asyncio.timeout(40):
            while wanted not in kinds(self.events):
                self._grown.clear()
                await self._grown.wait()


def test_envoy_accepts_the_configuration() -> None:
    envoy = program_path("envoy")
    assert envoy
    checked = subprocess.run(
        [envoy, "--mode", "validate", "-c", CONFIGURATION], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_a_stream_may_be_idle_for_longer_than_the_service_is_silent() -> None:
    (listener,) = yaml.safe_load(CONFIGURATION.read_text())["static_resources"]["listeners"]
    allowed_seconds = float(
        listener["filter_chains"][0]["filters"][0]["typed_config"]["stream_idle_timeout"].strip("s")
    )
    assert allowed_seconds > 2 * servicer._KEEPALIVE_INTERVAL_SECONDS


async def test_17_calls_go_on_at_the_other_replica_when_the_owner_is_killed(
    deployment: Deployment, tmp_path: Path
) -> None:
    turns = [turn("Look.", command(f"{BEGUN_AND_WAITS}; echo over")), turn("The end.")]
    await deployment.start(turns, count=2, METRICS_ADDRESS="127.0.0.1:0")
    async with envoy_before(deployment, tmp_path) as address, AsyncExitStack() as parts:
        caller, watcher, later = [await parts.enter_async_context(RunnerClient(address)) for _ in range(3)]
        called = Followed(caller, deployment.request("e"), starts=True)
        await called.until("started")
        watched = Followed(watcher, deployment.request("e"), starts=False)
        await asyncio.gather(called.until("tool_output"), watched.until("tool_output"))
        await deployment.kill(await replica_that_runs(deployment, tmp_path))
        deployment.let_go()
        events = await called.task
        assert await watched.task == events
        assert any(resumed(each) for each in events)
        assert stdout_of(events) == b"begun\nover\n"
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
        called_later = Followed(later, deployment.request("later"), starts=True)
        await called_later.until("tool_output")
        deployment.let_go()
        assert one(await called_later.task, "finished").state == event_pb2.STATE_SUCCEEDED


@pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")
@pytest.mark.long
@pytest.mark.timeout(300)  # the first build fetches and compiles gRPC
async def test_17_the_go_example_goes_on_at_the_other_replica_when_the_owner_is_killed(
    deployment: Deployment, tmp_path: Path, go_client: Path
) -> None:
    turns = [turn("Look.", command(f"{BEGUN_AND_WAITS}; echo over")), turn("The end.")]
    await deployment.start(turns, count=2, METRICS_ADDRESS="127.0.0.1:0")
    async with envoy_before(deployment, tmp_path) as address:
        process = await asyncio.create_subprocess_exec(
            go_client, "-address", address, "-id", "e", "hello", stdout=subprocess.PIPE, env={}
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while (line := await process.stdout.readline()) != b"begun\n":
                assert line, "the client ended too early"
        await deployment.kill(await replica_that_runs(deployment, tmp_path))
        deployment.let_go()
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert output == b"over\nThe end.\nSTATE_SUCCEEDED\n"


@pytest.mark.long
async def test_a_replica_that_drains_gets_no_more_calls(deployment: Deployment, tmp_path: Path) -> None:
    slow = turn(" ".join(str(number) for number in range(120)), delay=0.1)
    await deployment.start([slow], count=2, METRICS_ADDRESS="127.0.0.1:0", DRAIN_TIMEOUT="2")
    async with envoy_before(deployment, tmp_path) as address, RunnerClient(address) as client:
        called = Followed(client, deployment.request("e"), starts=True)
        await called.until("text_delta")
        owner = await replica_that_runs(deployment, tmp_path)
        deployment.signal(owner, signal.SIGTERM)
        others = [Followed(client, deployment.request(f"e{number}"), starts=True) for number in range(10)]
        assert await deployment.replicas[owner].ended() == 0
        for events in await asyncio.gather(called.task, *(each.task for each in others)):
            assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
        assert text_of(called.events).endswith(" 118 119")
        assert any(resumed(each) for each in called.events)


@pytest.mark.long
async def test_a_stream_that_is_idle_for_over_a_minute_is_not_cut(deployment: Deployment, tmp_path: Path) -> None:
    await deployment.start([turn("", command("sleep 70; echo over")), turn("The end.")], count=2)
    breaks: list[object] = []

    async def note(error: object) -> None:
        breaks.append(error)

    async with envoy_before(deployment, tmp_path) as address, RunnerClient(address, on_disconnect=note) as client:
        events = await Followed(client, deployment.request("e"), starts=True).task
    assert stdout_of(events) == b"over\n"
    assert not breaks
