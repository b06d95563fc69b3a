"""What the service counts and measures, as Prometheus and a real OTLP receiver read it."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from oteltap.oteltap_http_protobuf_receiver import OtelTapHttpProtobufReceiver
from oteltap.oteltap_http_protobuf_receiver_settings import OtelTapHttpProtobufReceiverSettings
from tests.ports import free_port
from tests.running import StartService, command, start, turn
from tests.scraping import Scrape

from runner_service.events.stream import EventStream
from runner_service.events.writer import log_writer
from runner_service.settings import Settings, SettingsError, load_settings
from runner_service.storage.event_log import Entry, EventLog, LogError, Rejection
from runner_service.telemetry import ExportFlush, flushed_at_exit, metering, metrics, monitored_loop, scrape_metrics
from runner_service.telemetry.collector import otlp_headers
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

__all__ = ["start"]


@contextmanager
def measuring() -> Iterator[None]:
    with metering(Settings.from_environment({"METRICS_ADDRESS": "127.0.0.1:0"}), ExportFlush()):
        yield


def reading() -> Scrape:
    return Scrape(scrape_metrics().decode())


async def test_what_an_execution_does_is_counted(start: StartService) -> None:
    turns = [
        turn(
            "",
            command("echo hello; echo bad >&2; exit 3"),
            ("ls", {"path": "/"}),
            usage={"input_tokens": 100, "output_tokens": 7},
        ),
        turn("Done.", usage={"input_tokens": 200, "output_tokens": 5, "cached_tokens": 90}),
    ]
    with measuring():
        client = await start(turns)
        await client.execute()
        page = reading()

    assert page.value("runner_executions_finished_total", state="succeeded", code="") == 1
    assert page.value("runner_executions_finished_total") == 1
    assert page.value("runner_execution_duration_seconds_count", state="succeeded") == 1
    assert page.value("runner_queue_wait_seconds_count") == 1
    assert page.value("runner_model_call_duration_seconds_count", provider="scripted", outcome="succeeded") == 2
    assert page.value("runner_tool_call_duration_seconds_count", tool="execute", outcome="failed") == 1
    assert page.value("runner_tool_call_duration_seconds_count", tool="ls", outcome="succeeded") == 1
    assert page.value("runner_output_bytes_total", stream="stdout") == len("hello\n")
    assert page.value("runner_output_bytes_total", stream="stderr") == len("bad\n")
    assert page.value("runner_command_spawn_duration_seconds_count") == 1
    assert 0 < page.value("runner_command_spawn_duration_seconds_sum") < 10
    assert page.value("runner_log_commit_duration_seconds_count") > 0
    assert page.value("target_info", service_name="runner-service") == 1
    assert [page.value("runner_model_tokens_total", type=kind) for kind in ("input", "output", "cached")] == [
        300,
        12,
        90,
    ]


async def test_who_runs_waits_and_watches_is_seen_while_it_lasts(start: StartService, tmp_path: Path) -> None:
    turns = [turn("", command("until [ -e go ]; do sleep 0.02; done")), turn("Done.")]
    with measuring():
        client = await start(turns, MAX_CONCURRENT_EXECUTIONS="1", MAX_QUEUED_EXECUTIONS="1")
        first = client.stub.ExecuteAgent(client.request())
        await client.collect(first, until=lambda event: event.HasField("tool_call_started"))
        second = client.stub.ExecuteAgent(client.request(execution_id="second"))
        await client.collect(second, until=lambda event: event.HasField("notice"))
        with pytest.raises(grpc.aio.AioRpcError):
            await client.execute()

        page = reading()
        states = ("running", "queued")
        assert [page.value("runner_executions", state=state) for state in states] == [1, 1]
        assert [page.value("runner_executions_limit", state=state) for state in states] == [1, 1]
        assert page.value("runner_executions_refused_total") == 1
        assert page.value("runner_watchers") == 2
        await client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="second"))
        (tmp_path / "workspace" / "go").touch()
        await asyncio.gather(client.collect(first), client.collect(second))

        async with asyncio.timeout(60):
            while (page := reading()).value("runner_watchers") or page.value("runner_executions"):
                await asyncio.sleep(0.01)
        assert page.value("runner_executions_finished_total", state="cancelled", code="CANCELLED") == 1


async def test_calls_of_a_model_that_fail_are_told_apart(start: StartService) -> None:
    with measuring():
        client = await start([turn("", error={"status": 400})])
        await client.execute()
        page = reading()

    assert page.value("runner_model_call_duration_seconds_count", outcome="rejected") == 1
    assert page.value("runner_executions_finished_total", state="failed", code="MODEL_REJECTED") == 1


async def test_the_lag_of_the_loop_shows_what_held_it_up() -> None:
    with measuring():
        async with monitored_loop():
            await asyncio.sleep(0.02)
            time.sleep(0.4)  # noqa: ASYNC251  # this is what is to be found out
            await asyncio.sleep(0.2)
        page = reading()
    late = page.value("runner_loop_lag_seconds_count") - page.value("runner_loop_lag_seconds_bucket", le="0.1")
    assert late >= 1


class FullDisk:
    """A log that takes nothing until there is room."""

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.tried = asyncio.Event()

    async def append(self, entries: list[Entry], owners: object) -> dict[str, Rejection]:
        self.tried.set()
        if not self.room.is_set():
            raise LogError("disk full")
        return {}


async def test_a_log_that_falls_behind_and_one_that_cannot_be_written_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner_service.events.writer._WRITE_TIMEOUT_SECONDS", 0.1)
    disk = FullDisk()
    log: EventLog = disk  # type: ignore[assignment]  # all that a writer needs
    with measuring():
        async with log_writer(log) as writer:
            assert reading().value("runner_log_unavailable") == 0
            stream = EventStream("a", writer, log)
            stream.publish(event_pb2.TextDelta(text="first"))
            await disk.tried.wait()
            stream.publish(event_pb2.TextDelta(text="x" * 5000))
            assert reading().value("runner_log_backlog_bytes") > 5000
            while not writer.broken:
                await asyncio.sleep(0.01)
            assert reading().value("runner_log_unavailable") == 1
            disk.room.set()
            while writer.broken or writer.backlog:
                await asyncio.sleep(0.01)
            page = reading()
            assert page.value("runner_log_unavailable") == 0
            assert (
                page.value("runner_log_batch_size_count") == page.value("runner_log_commit_duration_seconds_count") > 0
            )


def test_names_that_callers_choose_are_bounded() -> None:
    with measuring():
        for number in range(200):
            metrics.model_called("openai", f"model-{number}", "succeeded", 0.1)
        metrics.model_called("openai", 'quo"ted\nname', "succeeded", 0.1)
        metrics.tool_called('a "tool"\\\n', event_pb2.TOOL_OUTCOME_SUCCEEDED, 0.1)
        page = reading()
    models = {sample.labels["model"] for sample in page.samples if sample.name.startswith("runner_model_call")}
    assert len(models) == 51
    assert page.value("runner_model_call_duration_seconds_count", model="other") == 151
    assert page.value("runner_tool_call_duration_seconds_count", tool='a "tool"\\\n') == 1


def test_without_a_reader_nothing_is_imported_and_nothing_is_kept() -> None:
    code = (
        "import sys\n"
        "from runner_service import app\n"
        "from runner_service.settings import load_settings\n"
        "from runner_service.telemetry import metrics, scrape_metrics, telemetry\n"
        "with telemetry(load_settings({'MODE': 'local'})):\n"
        "    metrics.loop_lagged(1.0)\n"
        "    assert scrape_metrics() == b''\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk') or 'metric_exporter' in name])\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[str, AsyncIterator[Metric]]]:
    port = free_port()
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)) as receiver:
        yield f"http://127.0.0.1:{port}", receiver.stream_metrics()


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"])
async def test_a_collector_is_sent_the_same_by_otlp(variable: str) -> None:
    async with collecting() as (endpoint, received):
        url = endpoint if variable == "OTEL_EXPORTER_OTLP_ENDPOINT" else f"{endpoint}/v1/metrics"
        with flushed_at_exit() as flush, metering(Settings.from_environment({variable: url}), flush):
            metrics.queue_wait_ended(0.25)
            metrics.output_written("stdout", 12)
        async with asyncio.timeout(30):
            sent = {metric.name: metric async for metric in _first(received, 4)}
    assert sent["runner.queue.wait"].histogram.data_points[0].sum == 0.25
    assert sent["runner.output"].sum.data_points[0].as_int == 12


async def _first(metrics_received: AsyncIterator[Metric], count: int) -> AsyncIterator[Metric]:
    for _ in range(count):
        yield await anext(metrics_received)


def test_headers_for_the_collector_come_from_the_settings_and_are_secret() -> None:
    keys = {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=general-key", "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "x-key=own-key"}
    settings = Settings.from_environment(keys)
    assert otlp_headers(settings.otel_exporter_otlp_metrics_headers, settings.otel_exporter_otlp_headers) == {
        "x-key": "own-key"
    }
    assert otlp_headers(None, settings.otel_exporter_otlp_headers) == {"x-key": "general-key"}
    assert otlp_headers(None, None) is None
    assert {"own-key", "general-key"} <= set(settings.secrets())


def test_sending_can_be_turned_off() -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"}
    assert Settings.from_environment(endpoint).exports_metrics()
    for off in ({"OTEL_METRICS_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}):
        assert not Settings.from_environment(endpoint | off).exports_metrics()


@pytest.mark.parametrize(
    ("address", "text"),
    [("unix:/x", "should be host:port"), ("localhost", "should be host:port"), ("127.0.0.1:50051", "LISTEN_ADDRESS")],
)
def test_a_wrong_address_is_told_at_the_start(address: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"METRICS_ADDRESS: .*{text}"):
        load_settings({"MODE": "local", "METRICS_ADDRESS": address})
