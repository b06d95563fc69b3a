"""Random kills of the service, the daemon and Temporal, while the daemon's workflows hand over executions."""

import asyncio
import os
import re
import signal
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import yaml
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError
from tests.ports import free_port
from tests.running import command, turn
from tests.temporal.daemon_process import StoredDaemon
from tests.temporal.daemon_workflow import Timeouts, invoke, workflow_id
from tests.temporal.server import TemporalServer, temporal_server

from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

_STEPS = 5
_AT_ONCE = 4
_PAUSED_SHARE = 0.5
_ALL_ENDED_TIMEOUT_SECONDS = 150.0
_EFFECT = re.compile(r"echo '([^']*)' >> effects")
_TURNS = [
    turn(f"Step {step}.", command(f"sleep 0.2; echo '{{{{message}}}} {step}' >> effects")) for step in range(_STEPS)
]
_SCRIPT = {"turns": [*_TURNS, turn("Done {{message}}.")]}


@dataclass
class Report:
    """Counts of a storm."""

    kills: Counter[str] = field(default_factory=Counter)
    executions: int = 0
    interrupted_calls: int = 0
    handovers_lost: int = 0
    """Activities that Temporal had handed to a service that did not live to store them, and the next one has taken."""

    def __str__(self) -> str:
        return (
            f"{sum(self.kills.values())} kills {dict(self.kills)}, {self.executions} executions, "
            f"{self.interrupted_calls} calls interrupted, {self.handovers_lost} lost handovers taken"
        )


class _Process:
    """A process that is killed and started again."""

    def __init__(self, arguments: list[str], environ: Mapping[str, str], log: Path, port: int) -> None:
        self._arguments = arguments
        self._environ = {"PATH": os.environ["PATH"], **environ}
        self._log = log
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *self._arguments, env=self._environ, stdout=log, stderr=log
            )
        try:
            async with asyncio.timeout(60):
                while not await self._listens():
                    assert self._process.returncode is None, self._failure()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(self._failure()) from None

    def pause(self) -> None:
        """Stops it, in the sense of SIGSTOP: what it is sent until it is killed, it never sees."""
        if self._process:
            self._process.send_signal(signal.SIGSTOP)

    async def kill(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def _failure(self) -> str:
        code = self._process.returncode if self._process else None
        end = self._log.read_text(errors="replace")[-3000:]
        return f"{self._arguments} does not listen at {self._port}; exit code {code}; the log ends with\n{end}"

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True


class Storm:
    """Keeps executions running while processes are killed. Construct it with `storm`."""

    def __init__(self, directory: Path, choices: Random, temporal: TemporalServer) -> None:
        self._choices = choices
        self._queue = f"queue-{uuid.uuid4().hex[:8]}"
        self._workspace = directory / "workspace"
        self._daemon_directory = directory / "daemon"
        self._daemon = StoredDaemon(self._daemon_directory)
        self._daemon.agent()
        self._temporal = temporal
        self._names: list[str] = []
        self._feeding = True
        self.report = Report()
        script = directory / "script.yaml"
        script.write_text(yaml.safe_dump(_SCRIPT))
        daemon_port, service_port = free_port(), free_port()
        address = f"127.0.0.1:{daemon_port}"
        daemon_arguments = ["-m", "tests.temporal.daemon_process", str(self._daemon_directory), address]
        log = self._log = directory / "processes.log"
        self.victims: Mapping[str, Any] = {
            "service": _Process(
                ["-m", "runner_service", "serve"],
                {
                    "HOME": str(directory),
                    "MODE": "local",
                    "LISTEN_ADDRESS": f"127.0.0.1:{service_port}",
                    "STATE_DIR": str(directory / "state"),
                    "WORKSPACE_ROOT": str(self._workspace),
                    "STIGMER_BACKEND_ENDPOINT": address,
                    "STIGMER_LLM_PROVIDER": "scripted",
                    "STIGMER_LLM_SCRIPT": str(script),
                    "TEMPORAL_SERVICE_ADDRESS": temporal.address,
                    "TASK_QUEUE": self._queue,
                },
                log,
                service_port,
            ),
            "daemon": _Process(
                [*daemon_arguments, temporal.address, self._queue], {"PYTHONPATH": "."}, log, daemon_port
            ),
            "temporal": temporal,
        }

    async def run(self, kills: int) -> None:
        """Kills `kills` processes, lets every execution end, and checks the invariants."""
        for name in ("daemon", "service"):
            await self.victims[name].start()
        async with asyncio.TaskGroup() as tasks:
            feeders = [tasks.create_task(self._feed()) for _ in range(_AT_ONCE)]
            order: list[str] = []
            for _ in range(kills):
                if not order:
                    order = sorted(self.victims, key=lambda _: self._choices.random())
                await self._kill(order.pop())
            self._feeding = False
            async with asyncio.timeout(_ALL_ENDED_TIMEOUT_SECONDS):
                await asyncio.gather(*feeders)
        self._check()

    async def _kill(self, name: str) -> None:
        await asyncio.sleep(self._choices.uniform(0.2, 4.0))
        if name == "service" and self._choices.random() < _PAUSED_SHARE:
            self.victims[name].pause()
            await asyncio.sleep(self._choices.uniform(0.2, 2.0))
        await self.victims[name].kill()
        self.report.kills[name] += 1
        await asyncio.sleep(self._choices.uniform(0.0, 1.5))
        await self.victims[name].start()

    async def _feed(self) -> None:
        """Creates executions, one after another, each when the one before has ended."""
        while self._feeding:
            name = f"aex-{len(self._names)}"
            self._names.append(name)
            self._daemon.execution(name, name)
            await self._until_done(lambda client, name=name: self._invoke(client, name))  # type: ignore[misc]  # bound
            await self._until_done(lambda client, name=name: self._has_ended(client, name))  # type: ignore[misc]  # as above

    async def _until_done(self, attempt: Callable[[Client], Awaitable[bool]]) -> None:
        """Tries until it is done, whatever becomes of Temporal meanwhile."""
        while True:
            with suppress(RPCError, RuntimeError):
                if await attempt(await self._temporal.client()):
                    return
            await asyncio.sleep(0.3)

    async def _invoke(self, client: Client, name: str) -> bool:
        with suppress(WorkflowAlreadyStartedError):
            # No activity is found by its time-outs here, and a busy machine takes long to start all again.
            timeouts = Timeouts(schedule_to_start=120, heartbeat=120)
            await invoke(client, self._daemon, name, self._queue, timeouts)
        return True

    async def _has_ended(self, client: Client, name: str) -> bool:
        status = (await client.get_workflow_handle(workflow_id(name, self._queue)).describe()).status
        if status is WorkflowExecutionStatus.RUNNING:
            return False
        assert status is WorkflowExecutionStatus.COMPLETED, f"{name}: {status} {await self._failures(client, name)}"
        return True

    async def _failures(self, client: Client, name: str) -> list[str]:
        history = await client.get_workflow_handle(workflow_id(name, self._queue)).fetch_history()
        failed = [
            (event.event_time.ToJsonString(), event.activity_task_timed_out_event_attributes.failure)
            for event in history.events
            if event.HasField("activity_task_timed_out_event_attributes")
        ]
        return [
            f"{name}: {time} {failure.message} {failure.timeout_failure_info.timeout_type} "
            f"{failure.cause.timeout_failure_info.timeout_type}"
            for time, failure in failed
        ] or [str(event) for event in history.events if "failure" in str(event)]

    def _stored(self, name: str) -> execution_pb2.AgentExecutionStatus:
        found: execution_pb2.AgentExecution = StoredDaemon(self._daemon_directory).resources["execution", name]
        return found.status

    def _check(self) -> None:
        effects = Counter((self._workspace / "effects").read_text().splitlines())
        self.report.executions = len(self._names)
        self.report.handovers_lost = self._log.read_text(errors="replace").count("lost_handover_taken")
        for name in self._names:
            status = self._stored(name)
            assert status.phase == execution_pb2.EXECUTION_COMPLETED, f"{name}: {status}"
            assert status.messages[-1].content == f"Done {name}.", f"{name}: {status.messages[-1]}"
            assert len(status.tool_calls) == _STEPS, f"{name}: {status.tool_calls}"
            for call in status.tool_calls:
                self._check_call(name, call, effects)

    def _check_call(self, name: str, call: execution_pb2.ToolCall, effects: Counter[str]) -> None:
        found = _EFFECT.search(str(call.args["command"]))
        assert found
        count = effects[found[1]]
        if call.error == "interrupted":
            self.report.interrupted_calls += 1
            assert count <= 1, f"{name}: {found[1]} happened {count} times"
        else:
            assert call.status == execution_pb2.TOOL_CALL_COMPLETED, f"{name}: {call}"
            assert count == 1, f"{name}: {found[1]} happened {count} times"


@asynccontextmanager
async def _everything_killed(storm_: Storm) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for victim in storm_.victims.values():
            await victim.kill()


async def storm(directory: Path, *, seed: int, kills: int) -> Report:
    """Runs a storm in an empty directory."""
    async with temporal_server(directory) as temporal:
        running = Storm(directory, Random(seed), temporal)
        async with _everything_killed(running):
            await running.run(kills)
        return running.report
