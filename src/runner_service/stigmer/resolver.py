"""Resolves an execution id: reads the execution and everything it refers to, and builds a request."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from runner_service.errors import CallError, InvalidRequestError, PreconditionError
from runner_service.stigmer.client import DaemonClient
from runner_service.stigmer.methods import (
    GET_AGENT,
    GET_ARTIFACT,
    GET_ENVIRONMENT,
    GET_EXECUTION,
    GET_INSTANCE,
    GET_SESSION,
    GET_SKILL,
)
from runner_service.stigmer.wire import agent_pb2, agentinstance_pb2, environment_pb2, session_pb2, skill_pb2
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.stigmer.wire.apiresource_pb2 import ApiResourceReference
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

Check = Callable[[runner_pb2.ExecuteAgentRequest], None]


class Found(NamedTuple):
    """A complete request, and notices about what could not be resolved."""

    request: runner_pb2.ExecuteAgentRequest
    notices: list[event_pb2.Notice]


class _AgentSource(NamedTuple):
    """The agent of an execution, and the environments of its instance."""

    agent: agent_pb2.Agent
    environment_refs: Sequence[ApiResourceReference]


async def read_execution(client: DaemonClient, asked: runner_pb2.ExecuteAgentRequest, check: Check) -> Found:
    """Reads the execution that `asked` names; limits and labels of `asked` apply. `check` validates the result.

    Raises:
        NotFoundError, PermissionDeniedError: the text names the resource by kind and id.
        PreconditionError: the execution is not valid.
        UnavailableError: the daemon does not answer.
    """
    name = asked.execution_id
    execution = await client.read(GET_EXECUTION, execution_pb2.AgentExecutionId(value=name), f"agent_execution {name}")
    spec = execution.spec
    source = await _read_agent_source(client, name, spec)
    skills: _Skills
    environments: list[environment_pb2.Environment]
    skills, environments = await _gather(
        [_read_skills(client, source.agent.spec), _read_environments(client, source.environment_refs)]
    )
    notices = list(skills.notices)
    request = runner_pb2.ExecuteAgentRequest(
        execution_id=name,
        session_id=spec.session_id,
        agent=_agent(source.agent, skills, notices),
        message=spec.message,
        environment=_environment(source.agent, environments, spec),
        limits=asked.limits if asked.HasField("limits") else None,
        labels=asked.labels,
    )
    request.agent.model.name = spec.execution_config.model_name
    try:
        check(request)
    except InvalidRequestError as error:
        raise PreconditionError(
            f"agent_execution {name} cannot be run as the Stigmer daemon has it: {error}"
        ) from error
    return Found(request, notices)


async def _read_agent_source(client: DaemonClient, name: str, spec: execution_pb2.AgentExecutionSpec) -> _AgentSource:
    if not spec.session_id:
        if not spec.agent_id:
            raise PreconditionError(f"agent_execution {name} names neither a session nor an agent")
        return _AgentSource(await _read_agent(client, spec.agent_id), [])
    session = await client.read(GET_SESSION, session_pb2.SessionId(value=spec.session_id), f"session {spec.session_id}")
    instance_id = session.spec.agent_instance_id
    instance = await client.read(
        GET_INSTANCE, agentinstance_pb2.AgentInstanceId(value=instance_id), f"agent_instance {instance_id}"
    )
    return _AgentSource(await _read_agent(client, instance.spec.agent_id), instance.spec.environment_refs)


async def _read_environments(
    client: DaemonClient, references: Iterable[ApiResourceReference]
) -> list[environment_pb2.Environment]:
    return await _gather(
        client.read(GET_ENVIRONMENT, _without_kind(each), f"environment {each.slug}") for each in references
    )


def _without_kind(reference: ApiResourceReference) -> ApiResourceReference:
    """The daemon stores references to environments with a kind that its own lookup refuses."""
    copy = ApiResourceReference()
    copy.CopyFrom(reference)
    copy.ClearField("kind")
    return copy


async def _gather(calls: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Runs coroutines concurrently; raises the first CallError and cancels the rest."""
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each) for each in calls]
    except* CallError as errors:
        failure = errors.exceptions[0]
    else:
        return [task.result() for task in running]
    raise failure


async def _read_agent(client: DaemonClient, agent_id: str) -> agent_pb2.Agent:
    return await client.read(GET_AGENT, agent_pb2.AgentId(value=agent_id), f"agent {agent_id}")


class _Skills(NamedTuple):
    """Skills by their reference."""

    by_reference: dict[bytes, runner_pb2.Skill]
    notices: list[event_pb2.Notice]

    def of(self, references: Iterable[ApiResourceReference]) -> list[runner_pb2.Skill]:
        """Returns the skills of these references, in order."""
        return [self.by_reference[_key(each)] for each in references]


async def _read_skills(client: DaemonClient, spec: agent_pb2.AgentSpec) -> _Skills:
    """Reads the skills of an agent and its sub-agents concurrently, each once."""
    all_refs = [*spec.skill_refs, *(each for sub in spec.sub_agents for each in sub.skill_refs)]
    references = {_key(each): each for each in all_refs}
    notices: list[event_pb2.Notice] = []
    read = await _gather(_read_skill(client, each, notices) for each in references.values())
    return _Skills(dict(zip(references, read, strict=True)), notices)


async def _read_skill(
    client: DaemonClient, reference: ApiResourceReference, notices: list[event_pb2.Notice]
) -> runner_pb2.Skill:
    slug = reference.slug
    found = await client.read(GET_SKILL, reference, f"skill {slug}")
    skill = runner_pb2.Skill(
        name=found.metadata.name or slug, version=found.status.version_hash, content=found.spec.skill_md
    )
    if key := found.status.artifact_storage_key:
        try:
            asked = skill_pb2.GetArtifactRequest(artifact_storage_key=key)
            skill.archive = (await client.read(GET_ARTIFACT, asked, f"artifact of skill {slug}")).artifact
        except CallError as error:  # SKILL.md alone is often enough
            notices.append(_warning("SKILL_FILES_MISSING", f"skill {slug} has only its SKILL.md: {error}"))
    return skill


def _agent(found: agent_pb2.Agent, skills: _Skills, notices: list[event_pb2.Notice]) -> runner_pb2.Agent:
    spec = found.spec
    agent = runner_pb2.Agent(
        name=found.metadata.name or found.metadata.slug,
        instructions=spec.instructions,
        skills=skills.of(spec.skill_refs),
        sub_agents=[_sub_agent(each, skills) for each in spec.sub_agents],
    )
    for server in spec.mcp_servers:
        if server.HasField("docker"):
            text = f"MCP server {server.name} runs in a container: it needs docker, which this service does not use"
            notices.append(_warning("MCP_SERVER_UNAVAILABLE", text))
            for sub_agent in agent.sub_agents:
                _remove_server(sub_agent, server.name)
        else:
            agent.mcp_servers.append(_server(server))
    return agent


def _remove_server(sub_agent: runner_pb2.SubAgent, server: str) -> None:
    kept = [name for name in sub_agent.mcp_servers if name != server]
    del sub_agent.mcp_servers[:]
    sub_agent.mcp_servers.extend(kept)
    sub_agent.tool_selections.pop(server, None)


def _sub_agent(found: agent_pb2.SubAgent, skills: _Skills) -> runner_pb2.SubAgent:
    sub_agent = runner_pb2.SubAgent(
        name=found.name,
        description=found.description,
        instructions=found.instructions,
        mcp_servers=found.mcp_servers,
        skills=skills.of(found.skill_refs),
    )
    for server, selection in found.mcp_tool_selections.items():
        sub_agent.tool_selections[server].enabled_tools.extend(selection.enabled_tools)
    return sub_agent


def _server(found: agent_pb2.McpServerDefinition) -> runner_pb2.McpServer:
    server = runner_pb2.McpServer(name=found.name, enabled_tools=found.enabled_tools)
    if found.HasField("stdio"):
        stdio = found.stdio
        server.stdio.command = stdio.command
        server.stdio.args.extend(stdio.args)
        server.stdio.environment.update(stdio.env_placeholders)
        server.stdio.working_directory = stdio.working_dir
    elif found.HasField("http"):
        http = found.http
        server.http.url = http.url
        server.http.headers.update(http.headers)
        server.http.query.update(http.query_params)
        if http.timeout_seconds > 0:
            server.http.timeout.FromSeconds(http.timeout_seconds)
    return server


def _environment(
    agent: agent_pb2.Agent,
    environments: Iterable[environment_pb2.Environment],
    spec: execution_pb2.AgentExecutionSpec,
) -> dict[str, runner_pb2.EnvironmentValue]:
    """Merges the layers, lowest first: the agent's values, each environment in order, the execution's values."""
    merged: dict[str, runner_pb2.EnvironmentValue] = {}
    layers: list[Mapping[str, Any]] = [
        agent.spec.env_spec.data,
        *(each.spec.data for each in environments),
        spec.runtime_env,
    ]
    for layer in layers:
        for name, entry in layer.items():
            merged[name] = runner_pb2.EnvironmentValue(value=entry.value, is_secret=entry.is_secret)
    return merged


def _warning(code: str, text: str) -> event_pb2.Notice:
    logger.warning("agent_incomplete code=%s text=%s", code, text)
    return event_pb2.Notice(level=event_pb2.Notice.LEVEL_WARNING, code=code, text=text)


def _key(reference: ApiResourceReference) -> bytes:
    return reference.SerializeToString(deterministic=True)
