"""What an execution does once it is its turn: its sandbox, its clock, and the agent's run in between."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from runner_service.agent.interface import AgentLoopLoading, AgentRun
from runner_service.agent.resume import Resumption, read_resumption
from runner_service.errors import SandboxEnd, TimedOutEnd
from runner_service.executions.execution import Execution
from runner_service.executors.protocol import Executor, SandboxError, SandboxSpec
from runner_service.models import ModelChoice, resolve
from runner_service.redaction import Redactor
from runner_service.settings import Settings
from runner_service.storage.event_log import FINAL_STATES, EventLog
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


@dataclass(frozen=True)
class Job:
    """What an execution is to do, and whether an earlier process has begun it."""

    request: runner_pb2.ExecuteAgentRequest
    model: ModelChoice
    executor: Executor
    resumes: bool = False


class Work:
    """Does jobs. One per process."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        *,
        mode: str,
        executor: Executor,
        agent_loop: AgentLoopLoading,
    ) -> None:
        self._settings = settings
        self._log = log
        self._mode = mode
        self._executor = executor
        self._agent_loop = agent_loop

    def job(self, request: runner_pb2.ExecuteAgentRequest, *, resumes: bool = False) -> Job:
        """Makes sure, before anything has happened, that all is there that a request needs.

        Raises:
            CallError: FAILED_PRECONDITION or INVALID_ARGUMENT for the model.
        """
        return Job(request, resolve(request.agent.model, self._settings), self._executor, resumes)

    def redactor(self, request: runner_pb2.ExecuteAgentRequest) -> Redactor:
        """Knows the secrets of a request, and the service's own."""
        secrets = [entry.value for entry in request.environment.values() if entry.is_secret]
        return Redactor([*self._settings.secrets(), *secrets])

    async def perform(self, execution: Execution, job: Job, *, on_begin: Callable[[], None]) -> str:
        """Does a job and returns the final answer. `on_begin` is called when the agent begins.

        Raises:
            ExecutionEnd: there is no answer; the class says why.
        """
        resumption = await read_resumption(self._log, execution.id) if job.resumes else None
        if resumption:
            execution.usage.CopyFrom(resumption.usage)
            execution.elapsed_before = resumption.elapsed
        return await self._run(execution, job, resumption, on_begin)

    async def forget(self, execution: Execution) -> None:
        """Forgets what was kept to go on with an execution whose end is in the log."""
        if execution.run:
            await (await self._agent_loop.loaded()).forget(execution.id, execution.record.session_id)

    async def forget_ended(self, is_at_work: Callable[[str], bool]) -> None:
        """Forgets what is still kept of executions that have ended: cancelled, or pruned, or killed right after.

        Raises:
            LogError: the log cannot be read.
            ExecutionEnd: the agent loop cannot be loaded.
        """
        loop = await self._agent_loop.once_loaded()
        for execution_id in await loop.kept():
            stored = None if is_at_work(execution_id) else await self._log.get(execution_id)
            # It may have come back to work meanwhile.
            if not is_at_work(execution_id) and (stored is None or stored.execution.state in FINAL_STATES):
                await loop.forget(execution_id, stored.execution.session_id if stored else "")

    async def _run(
        self, execution: Execution, job: Job, resumption: Resumption | None, on_begin: Callable[[], None]
    ) -> str:
        loop = await self._agent_loop.loaded()
        limits = self._limits(job.request.limits)
        seconds = limits.timeout.ToNanoseconds() / 1e9
        try:
            async with (
                asyncio.timeout(max(0.0, seconds - execution.elapsed_before)) as clock,
                job.executor.open(_sandbox_spec(execution, job)) as sandbox,
            ):
                execution.begin(self._started(execution, job, sandbox.root))
                on_begin()
                execution.run = AgentRun(
                    execution_id=execution.id,
                    session_id=job.request.session_id,
                    agent=job.request.agent,
                    message=job.request.message,
                    limits=limits,
                    model=job.model,
                    sandbox=sandbox,
                    events=execution.stream,
                    redactor=execution.redactor,
                    environment=_environment(job),
                    usage=execution.usage,
                    max_repeated_calls=self._settings.max_repeated_calls,
                    resumption=resumption,
                    is_interrupted=lambda: execution.is_interrupted,
                )
                return await loop.run(execution.run)
        except TimeoutError:
            if clock.expired():
                raise TimedOutEnd(f"limits.timeout = {seconds:g} s was reached") from None
            raise
        except SandboxError as error:
            raise SandboxEnd(execution.redactor.text(str(error)), code=error.code, retryable=error.retryable) from error

    def _started(self, execution: Execution, job: Job, root: str) -> event_pb2.Started:
        executor, model = job.executor, job.model
        return event_pb2.Started(
            mode=self._mode,
            sandbox=event_pb2.SandboxInfo(
                type=executor.sandbox_type, root=root, process_control=executor.process_control
            ),
            model=event_pb2.ModelInfo(provider=model.provider, name=model.name),
            resumed=job.resumes and execution.has_begun,
        )

    def _limits(self, asked: runner_pb2.ExecutionLimits) -> runner_pb2.ExecutionLimits:
        settings = self._settings
        limits = runner_pb2.ExecutionLimits(
            max_model_calls=asked.max_model_calls or settings.default_max_model_calls,
            max_tool_calls=asked.max_tool_calls or settings.default_max_tool_calls,
            max_total_tokens=asked.max_total_tokens or settings.default_max_total_tokens,
            max_output_bytes=asked.max_output_bytes or settings.default_max_output_bytes,
        )
        limits.timeout.CopyFrom(asked.timeout if asked.HasField("timeout") else _duration(settings.default_timeout))
        limits.command_timeout.CopyFrom(
            asked.command_timeout if asked.HasField("command_timeout") else _duration(settings.default_command_timeout)
        )
        return limits


def _sandbox_spec(execution: Execution, job: Job) -> SandboxSpec:
    return SandboxSpec(
        execution_id=execution.id,
        session_id=job.request.session_id,
        notify=lambda code, text: _publish_notice(execution, code, text),
        is_interrupted=lambda: execution.is_interrupted,
        environment=_environment(job),
    )


def _environment(job: Job) -> dict[str, str]:
    return {name: entry.value for name, entry in job.request.environment.items()}


def _publish_notice(execution: Execution, code: str, text: str) -> None:
    execution.stream.publish(event_pb2.Notice(level=event_pb2.Notice.LEVEL_INFO, code=code, text=text))


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
