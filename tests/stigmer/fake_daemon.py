"""A fake Stigmer daemon that stores, merges and streams as the real one of January 2026 does, and fails on demand."""

import asyncio
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from tests.ports import free_port

from runner_service.stigmer.wire import (
    agent_pb2,
    agent_pb2_grpc,
    agentexecution_pb2_grpc,
    agentinstance_pb2,
    agentinstance_pb2_grpc,
    apiresource_pb2,
    environment_pb2,
    environment_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    skill_pb2,
    skill_pb2_grpc,
)
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

KEY = "local-test-key"
COMPLETED = execution_pb2.EXECUTION_COMPLETED
STORED_ENVIRONMENT_KIND: Any = 52
"""The kind in the references to environments, which the lookup refuses."""

_LOOKUP_KINDS = {0, 53}
FINAL = {COMPLETED, execution_pb2.EXECUTION_FAILED, execution_pb2.EXECUTION_CANCELLED}


class FakeDaemon:
    """What the daemon has, by kind and id. `reports` is what it was sent, `failures` what a method fails with."""

    def __init__(self) -> None:
        self.resources: MutableMapping[tuple[str, str], Any] = {}
        self.reports: list[execution_pb2.AgentExecutionUpdateStatusInput] = []
        self.failures: dict[str, grpc.StatusCode] = {}
        self.silent: set[str] = set()
        self.keys: set[str] = set()
        self.asked_together: dict[str, asyncio.Barrier] = {}
        """By method: who is not answered before all that meet here have been asked."""
        self.printed: dict[str, list[str]] = {}
        """By execution: what `stigmer run --follow` prints: each message once, as it is when the list has grown."""
        self.address = ""
        self._changed = asyncio.Event()

    def add_resource(self, kind: str, name: str, resource: Any) -> None:
        """Keeps a resource."""
        self.resources[kind, name] = resource

    def agent(self, *, environment: Mapping[str, str] | None = None, **spec: Any) -> None:
        """Keeps the agent that `execution` refers to."""
        agent = agent_pb2.Agent(
            metadata=apiresource_pb2.ApiResourceMetadata(name="helper"),
            spec=agent_pb2.AgentSpec(instructions="Help.", **spec),
        )
        for name, value in (environment or {}).items():
            agent.spec.env_spec.data[name].value = value
        self.add_resource("agent", "agt-1", agent)

    def execution(self, name: str, message: str = "go", **spec: Any) -> None:
        """Keeps an execution, with a session and an instance of the agent."""
        spec.setdefault("session_id", f"ses-{name}")
        execution = execution_pb2.AgentExecution(
            api_version="agentic.stigmer.ai/v1",
            kind="AgentExecution",
            metadata=apiresource_pb2.ApiResourceMetadata(name=name, slug=name, id=name, org="acme"),
            spec=execution_pb2.AgentExecutionSpec(message=message, **spec),
            status=execution_pb2.AgentExecutionStatus(phase=execution_pb2.EXECUTION_PENDING),
        )
        self.add_resource("execution", name, execution)
        if spec["session_id"]:
            session = session_pb2.Session(spec=session_pb2.SessionSpec(agent_instance_id="ain-1"))
            self.add_resource("session", spec["session_id"], session)
        if ("instance", "ain-1") not in self.resources:
            self.instance()

    def instance(self, *environments: str) -> None:
        """Keeps the instance, with references to environments."""
        references = [
            apiresource_pb2.ApiResourceReference(slug=slug, kind=STORED_ENVIRONMENT_KIND) for slug in environments
        ]
        spec = agentinstance_pb2.AgentInstanceSpec(agent_id="agt-1", environment_refs=references)
        self.add_resource("instance", "ain-1", agentinstance_pb2.AgentInstance(spec=spec))

    def environment(self, slug: str, values: Mapping[str, str], *, secret: bool = False) -> None:
        """Keeps an environment."""
        environment = environment_pb2.Environment()
        for name, value in values.items():
            environment.spec.data[name].CopyFrom(environment_pb2.EnvironmentValue(value=value, is_secret=secret))
        self.add_resource("environment", slug, environment)

    def skill(self, slug: str, text: str, *, version: str = "v1", archive: bytes | None = None) -> None:
        """Keeps a skill, and its files if there are some."""
        skill = skill_pb2.Skill(metadata=apiresource_pb2.ApiResourceMetadata(name=slug))
        skill.spec.skill_md = text
        skill.status.version_hash = version
        if archive is not None:
            skill.status.artifact_storage_key = f"key-{slug}"
            self.add_resource("artifact", f"key-{slug}", skill_pb2.GetArtifactResponse(artifact=archive))
        self.add_resource("skill", slug, skill)

    def status(self, name: str) -> execution_pb2.AgentExecutionStatus:
        """How far an execution has come, merged from all reports."""
        execution: execution_pb2.AgentExecution = self.resources["execution", name]
        return execution.status

    def reports_of(self, name: str) -> list[execution_pb2.AgentExecutionStatus]:
        """The reports of one execution, in order."""
        return [each.status for each in self.reports if each.execution_id == name]

    async def until_final(self, name: str) -> execution_pb2.AgentExecutionStatus:
        """Waits until an execution has come to its end, as far as was reported."""
        async with asyncio.timeout(60):
            while self.status(name).phase not in FINAL:
                await self._changed.wait()
        return self.status(name)

    async def answer(self, kind: str, name: str, context: Any) -> Any:
        """What a reading method answers with."""
        await self.admit(kind, context)
        if (kind, name) not in self.resources:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no {kind} {name}")
        return self.resources[kind, name]

    async def admit(self, method: str, context: Any) -> None:
        """Looks at the key, and fails or stays silent as told."""
        metadata = dict(context.invocation_metadata())
        self.keys.add(metadata.get("authorization", ""))
        if barrier := self.asked_together.get(method):
            await barrier.wait()
        if method in self.silent:
            await asyncio.sleep(3600)
        if code := self.failures.get(method):
            await context.abort(code, f"{method} fails")

    def merge(self, report: execution_pb2.AgentExecutionUpdateStatusInput) -> None:
        """Takes a report as the daemon does: what is not empty replaces what was there."""
        self.reports.append(report)
        kept, new = self.status(report.execution_id), report.status
        for name in ("messages", "tool_calls", "sub_agent_executions"):
            if getattr(new, name):
                kept.ClearField(name)
                getattr(kept, name).extend(getattr(new, name))
        if new.todos:
            kept.ClearField("todos")
            for key, item in new.todos.items():
                kept.todos[key].CopyFrom(item)
        for name in ("phase", "error", "started_at", "completed_at"):
            if getattr(new, name):
                setattr(kept, name, getattr(new, name))
        self._print(report.execution_id)
        self.notify()

    def fail(self, name: str, *lines: str) -> None:
        """Ends an execution as the daemon's workflow does, whatever it is: FAILED, with other messages."""
        status = self.status(name)
        status.phase = execution_pb2.EXECUTION_FAILED
        status.ClearField("messages")
        for line in lines:
            status.messages.add(type=execution_pb2.MESSAGE_SYSTEM, content=line)
        self._print(name)
        self.notify()

    def _print(self, name: str) -> None:
        printed = self.printed.setdefault(name, [])
        printed.extend(message.content for message in self.status(name).messages[len(printed) :])

    def notify(self) -> None:
        """Wakes whoever waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def next_change(self) -> asyncio.Event:
        """It is set by the next change."""
        return self._changed

    async def changed(self) -> None:
        """Waits for the next change."""
        await self._changed.wait()


class _Executions(
    agentexecution_pb2_grpc.AgentExecutionQueryControllerServicer,
    agentexecution_pb2_grpc.AgentExecutionCommandControllerServicer,
):
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    async def get(self, request: Any, context: Any) -> Any:
        return await self._daemon.answer("execution", request.value, context)

    async def subscribe(self, request: Any, context: Any) -> None:  # type: ignore[override]  # by context.write
        execution = await self._daemon.answer("execution", request.value, context)
        while True:
            changed, phase = self._daemon.next_change, execution.status.phase  # it may change while it is written
            await context.write(execution)
            if phase in FINAL:
                return
            await changed.wait()

    async def updateStatus(self, request: Any, context: Any) -> Any:  # noqa: N802  # the daemon's name
        await self._daemon.admit("updateStatus", context)
        if ("execution", request.execution_id) not in self._daemon.resources:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such execution")
        self._daemon.merge(request)
        # The daemon answers with the whole execution, which nobody is to depend on.
        return Empty.FromString(self._daemon.resources["execution", request.execution_id].SerializeToString())


class _Skills(skill_pb2_grpc.SkillQueryControllerServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    async def getByReference(self, request: Any, context: Any) -> Any:  # noqa: N802  # the daemon's name
        return await self._daemon.answer("skill", request.slug, context)

    async def getArtifact(self, request: Any, context: Any) -> Any:  # noqa: N802  # the daemon's name
        return await self._daemon.answer("artifact", request.artifact_storage_key, context)


class _Others(
    session_pb2_grpc.SessionQueryControllerServicer,
    agentinstance_pb2_grpc.AgentInstanceQueryControllerServicer,
    agent_pb2_grpc.AgentQueryControllerServicer,
    environment_pb2_grpc.EnvironmentQueryControllerServicer,
):
    def __init__(self, daemon: FakeDaemon, kind: str) -> None:
        self._daemon = daemon
        self._kind = kind

    async def get(self, request: Any, context: Any) -> Any:
        return await self._daemon.answer(self._kind, request.value, context)

    async def getByReference(self, request: Any, context: Any) -> Any:  # noqa: N802  # the daemon's name
        if request.kind not in _LOOKUP_KINDS:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"kind {request.kind} is not environment")
        return await self._daemon.answer(self._kind, request.slug, context)


@asynccontextmanager
async def served(
    daemon: FakeDaemon, address: str = "", *, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[FakeDaemon]:
    """Serves it; an `address` that served before makes it the same daemon, started again. TLS by `credentials`.

    No other server is given its port once it is gone, as it could be one of those that are chosen by the kernel.
    """
    address = address or f"127.0.0.1:{free_port()}"
    server = grpc.aio.server(options=(("grpc.max_send_message_length", 64 * 1024 * 1024),))
    executions = _Executions(daemon)
    agentexecution_pb2_grpc.add_AgentExecutionQueryControllerServicer_to_server(executions, server)
    agentexecution_pb2_grpc.add_AgentExecutionCommandControllerServicer_to_server(executions, server)
    session_pb2_grpc.add_SessionQueryControllerServicer_to_server(_Others(daemon, "session"), server)
    agentinstance_pb2_grpc.add_AgentInstanceQueryControllerServicer_to_server(_Others(daemon, "instance"), server)
    agent_pb2_grpc.add_AgentQueryControllerServicer_to_server(_Others(daemon, "agent"), server)
    environment_pb2_grpc.add_EnvironmentQueryControllerServicer_to_server(_Others(daemon, "environment"), server)
    skill_pb2_grpc.add_SkillQueryControllerServicer_to_server(_Skills(daemon), server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    daemon.address = f"{address.rpartition(':')[0]}:{port}"
    await server.start()
    try:
        yield daemon
    finally:
        await server.stop(0)


@asynccontextmanager
async def answering_bytes(answer: bytes) -> AsyncIterator[str]:
    """Serves `answer` to whatever is asked."""

    async def reply(request: bytes, context: Any) -> bytes:
        return answer

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(reply)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
