"""Validation of the agent in a request."""

import re
from collections.abc import Collection, Iterable, Mapping
from urllib.parse import urlsplit

from runner_service.agent.mcp.placeholders import PLACEHOLDER
from runner_service.api.validation.fields import (
    MAX_ENVIRONMENT_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_VARIABLES,
    Violations,
    at_most,
    identifier,
    not_negative,
    text_size,
)
from runner_service.errors import FieldViolation
from runner_service.v1 import agent_runner_pb2 as runner_pb2

MAX_TEMPERATURE = 2.0
MAX_SKILLS = 64
MAX_SERVERS = 32
MAX_SUB_AGENTS = 64
MAX_ARGUMENTS = 256
MAX_ARGUMENTS_BYTES = 256 * 1024
MAX_PATH_CHARACTERS = 4096
MAX_URL_CHARACTERS = 8192
MAX_PARAMETERS = 64
MAX_PARAMETER_CHARACTERS = 8192
MAX_ENABLED_TOOLS = 256
MAX_TIMEOUT_SECONDS = 3600

_GENERAL_PURPOSE = "general-purpose"
_PROVIDERS = ("openai", "anthropic", "ollama", "scripted")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def agent_violations(agent: runner_pb2.Agent, variables: Collection[str]) -> Violations:
    """Yields every violation in an agent. `variables` are the names in the request's environment."""
    yield from at_most("agent.name", len(agent.name), MAX_NAME_CHARACTERS, "characters")
    yield from text_size("agent.instructions", agent.instructions)
    yield from _model(agent.model)
    yield from _skills("agent.skills", agent.skills)
    yield from _servers(agent.mcp_servers, variables)
    yield from _sub_agents(agent)


def _model(model: runner_pb2.Model) -> Violations:
    if model.provider and model.provider not in _PROVIDERS:
        yield FieldViolation("agent.model.provider", f"must be one of {', '.join(_PROVIDERS)}, or empty")
    yield from at_most("agent.model.name", len(model.name), MAX_NAME_CHARACTERS, "characters")
    if model.HasField("temperature") and not 0 <= model.temperature <= MAX_TEMPERATURE:
        yield FieldViolation("agent.model.temperature", f"must be between 0 and {MAX_TEMPERATURE:g}")
    yield from not_negative("agent.model.max_output_tokens", model.max_output_tokens)


def _skills(field: str, skills: Collection[runner_pb2.Skill]) -> Violations:
    yield from at_most(field, len(skills), MAX_SKILLS, "skills")
    for index, skill in enumerate(skills):
        if not skill.name.strip() or "\n" in skill.name:
            yield FieldViolation(f"{field}[{index}].name", "must be a name, on one line")
        yield from at_most(f"{field}[{index}].name", len(skill.name), MAX_NAME_CHARACTERS, "characters")
        if skill.version:
            yield from identifier(f"{field}[{index}].version", skill.version)
        yield from text_size(f"{field}[{index}].content", skill.content)


def _servers(servers: Collection[runner_pb2.McpServer], variables: Collection[str]) -> Violations:
    yield from at_most("agent.mcp_servers", len(servers), MAX_SERVERS, "servers")
    if len(servers) > MAX_SERVERS:
        return
    yield from _unique("agent.mcp_servers", [each.name for each in servers])
    for index, server in enumerate(servers):
        field = f"agent.mcp_servers[{index}]"
        yield from identifier(f"{field}.name", server.name)
        yield from _tools(f"{field}.enabled_tools", server.enabled_tools)
        match server.WhichOneof("transport"):
            case "stdio":
                yield from _stdio(f"{field}.stdio", server.stdio, variables)
            case "http":
                yield from _http(f"{field}.http", server.http, variables)
            case _:
                yield FieldViolation(field, "must have stdio or http")


def _stdio(field: str, stdio: runner_pb2.StdioServer, variables: Collection[str]) -> Violations:
    if not stdio.command.strip():
        yield FieldViolation(f"{field}.command", "must name a program")
    yield from at_most(f"{field}.command", len(stdio.command), MAX_PATH_CHARACTERS, "characters")
    yield from at_most(f"{field}.working_directory", len(stdio.working_directory), MAX_PATH_CHARACTERS, "characters")
    yield from at_most(f"{field}.args", len(stdio.args), MAX_ARGUMENTS, "arguments")
    yield from at_most(f"{field}.args", sum(len(each.encode()) for each in stdio.args), MAX_ARGUMENTS_BYTES, "bytes")
    yield from at_most(f"{field}.environment", len(stdio.environment), MAX_VARIABLES, "variables")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in stdio.environment.items())
    yield from at_most(f"{field}.environment", size, MAX_ENVIRONMENT_BYTES, "bytes")
    for each in (stdio.command, stdio.working_directory, *stdio.args, *stdio.environment.values()):
        if "\0" in each:
            yield FieldViolation(field, "must not hold a NUL")
            break
    for name in stdio.environment:
        if not _VARIABLE.fullmatch(name):
            yield FieldViolation(f"{field}.environment[{name[:MAX_NAME_CHARACTERS]!r}]", "must be named as a variable")
    yield from _placeholders(f"{field}.environment", stdio.environment, variables)


def _http(field: str, http: runner_pb2.HttpServer, variables: Collection[str]) -> Violations:
    if not _is_url(http.url):
        yield FieldViolation(f"{field}.url", "must be an address that begins with http:// or https://")
    yield from at_most(f"{field}.url", len(http.url), MAX_URL_CHARACTERS, "characters")
    yield from _parameters(f"{field}.headers", http.headers)
    yield from _parameters(f"{field}.query", http.query)
    for name, value in http.headers.items():
        if not _HEADER.fullmatch(name) or not value.isprintable() or not value.isascii():
            yield FieldViolation(
                f"{field}.headers[{name[:MAX_NAME_CHARACTERS]!r}]", "must be a header of HTTP, in printable ASCII"
            )
    if http.HasField("timeout") and not 0 < http.timeout.ToNanoseconds() <= MAX_TIMEOUT_SECONDS * 10**9:
        yield FieldViolation(f"{field}.timeout", f"must be above zero and at most {MAX_TIMEOUT_SECONDS} seconds")
    yield from _placeholders(f"{field}.headers", http.headers, variables)
    yield from _placeholders(f"{field}.query", http.query, variables)


def _placeholders(field: str, values: Mapping[str, str], variables: Collection[str]) -> Violations:
    for name, value in values.items():
        for missing in (each[1] for each in PLACEHOLDER.finditer(value) if each[1] not in variables):
            yield FieldViolation(
                f"{field}[{name[:MAX_NAME_CHARACTERS]!r}]",
                f"names ${{{missing[:MAX_NAME_CHARACTERS]}}}, which is not in environment",
            )


def _parameters(field: str, values: Mapping[str, str]) -> Violations:
    yield from at_most(field, len(values), MAX_PARAMETERS, "entries")
    for name, value in values.items():
        entry = f"{field}[{name[:MAX_NAME_CHARACTERS]!r}]"
        yield from at_most(entry, len(name), MAX_NAME_CHARACTERS, "characters in its name")
        yield from at_most(entry, len(value), MAX_PARAMETER_CHARACTERS, "characters")


def _tools(field: str, names: Collection[str]) -> Violations:
    yield from at_most(field, len(names), MAX_ENABLED_TOOLS, "tools")
    for name in names:
        yield from at_most(field, len(name), MAX_NAME_CHARACTERS, "characters in a name")


def _sub_agents(agent: runner_pb2.Agent) -> Violations:
    servers = {each.name for each in agent.mcp_servers[:MAX_SERVERS]}
    yield from at_most("agent.sub_agents", len(agent.sub_agents), MAX_SUB_AGENTS, "sub-agents")
    if len(agent.sub_agents) > MAX_SUB_AGENTS:
        return
    yield from _unique("agent.sub_agents", [_GENERAL_PURPOSE, *(each.name for each in agent.sub_agents)])
    for index, sub_agent in enumerate(agent.sub_agents):
        field = f"agent.sub_agents[{index}]"
        yield from identifier(f"{field}.name", sub_agent.name)
        if not sub_agent.description.strip():
            yield FieldViolation(f"{field}.description", "must say what the sub-agent is good for")
        yield from text_size(f"{field}.description", sub_agent.description)
        yield from text_size(f"{field}.instructions", sub_agent.instructions)
        yield from _skills(f"{field}.skills", sub_agent.skills)
        yield from at_most(f"{field}.mcp_servers", len(sub_agent.mcp_servers), MAX_SERVERS, "servers")
        yield from at_most(f"{field}.tool_selections", len(sub_agent.tool_selections), MAX_SERVERS, "servers")
        for name, selection in sub_agent.tool_selections.items():
            yield from _tools(f"{field}.tool_selections[{name[:MAX_NAME_CHARACTERS]!r}]", selection.enabled_tools)
        for name in [*sub_agent.mcp_servers, *sub_agent.tool_selections]:
            if name not in servers:
                yield FieldViolation(
                    f"{field}.mcp_servers", f"names {name[:MAX_NAME_CHARACTERS]!r}, which is not in agent.mcp_servers"
                )


def _unique(field: str, names: Iterable[str]) -> Violations:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield FieldViolation(field, f"must have different names; {name!r} is taken")
        seen.add(name)


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
