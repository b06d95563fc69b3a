"""What the description of an agent may hold."""

import re
from collections.abc import Collection, Iterable, Mapping
from urllib.parse import urlsplit

from runner_service.errors import FieldViolation
from runner_service.field_rules import MAX_NAME, PLACEHOLDER, Violations, at_most, identifier, not_negative, text
from runner_service.v1 import agent_runner_pb2 as runner_pb2

MAX_TEMPERATURE = 2.0
MAX_SKILLS = 64
MAX_SERVERS = 32
MAX_SUB_AGENTS = 64
MAX_ARGUMENTS = 256
MAX_TIMEOUT_SECONDS = 3600

_GENERAL_PURPOSE = "general-purpose"
_PROVIDERS = ("openai", "anthropic", "ollama", "scripted")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def agent_violations(agent: runner_pb2.Agent, variables: Collection[str]) -> Violations:
    """Names every wrong field of an agent. `variables` are the names in the request's environment."""
    yield from at_most("agent.name", len(agent.name), MAX_NAME, "characters")
    yield from text("agent.instructions", agent.instructions)
    yield from _model(agent.model)
    yield from _skills("agent.skills", agent.skills)
    yield from _servers(agent.mcp_servers, variables)
    yield from _sub_agents(agent)


def _model(model: runner_pb2.Model) -> Violations:
    if model.provider and model.provider not in _PROVIDERS:
        yield FieldViolation("agent.model.provider", f"must be one of {', '.join(_PROVIDERS)}, or empty")
    if model.HasField("temperature") and not 0 <= model.temperature <= MAX_TEMPERATURE:
        yield FieldViolation("agent.model.temperature", f"must be between 0 and {MAX_TEMPERATURE:g}")
    yield from not_negative("agent.model.max_output_tokens", model.max_output_tokens)


def _skills(field: str, skills: Collection[runner_pb2.Skill]) -> Violations:
    yield from at_most(field, len(skills), MAX_SKILLS, "skills")
    for index, skill in enumerate(skills):
        if not skill.name.strip() or "\n" in skill.name:
            yield FieldViolation(f"{field}[{index}].name", "must be a name, on one line")
        yield from at_most(f"{field}[{index}].name", len(skill.name), MAX_NAME, "characters")
        if skill.version:
            yield from identifier(f"{field}[{index}].version", skill.version)
        yield from text(f"{field}[{index}].content", skill.content)


def _servers(servers: Collection[runner_pb2.McpServer], variables: Collection[str]) -> Violations:
    yield from at_most("agent.mcp_servers", len(servers), MAX_SERVERS, "servers")
    yield from _different("agent.mcp_servers", [each.name for each in servers])
    for index, server in enumerate(servers):
        field = f"agent.mcp_servers[{index}]"
        yield from identifier(f"{field}.name", server.name)
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
    yield from at_most(f"{field}.args", len(stdio.args), MAX_ARGUMENTS, "arguments")
    for each in (stdio.command, stdio.working_directory, *stdio.args, *stdio.environment.values()):
        if "\0" in each:
            yield FieldViolation(field, "must not hold a NUL")
            break
    for name in stdio.environment:
        if not _VARIABLE.fullmatch(name):
            yield FieldViolation(f"{field}.environment[{name!r}]", "must be named as a variable")
    yield from _placeholders(f"{field}.environment", stdio.environment, variables)


def _http(field: str, http: runner_pb2.HttpServer, variables: Collection[str]) -> Violations:
    if not _is_url(http.url):
        yield FieldViolation(f"{field}.url", "must be an address that begins with http:// or https://")
    for name, value in http.headers.items():
        if not _HEADER.fullmatch(name) or not value.isprintable() or not value.isascii():
            yield FieldViolation(f"{field}.headers[{name!r}]", "must be a header of HTTP, in printable ASCII")
    if http.HasField("timeout") and not 0 < http.timeout.ToNanoseconds() <= MAX_TIMEOUT_SECONDS * 10**9:
        yield FieldViolation(f"{field}.timeout", f"must be above zero and at most {MAX_TIMEOUT_SECONDS} seconds")
    yield from _placeholders(f"{field}.headers", http.headers, variables)
    yield from _placeholders(f"{field}.query", http.query, variables)


def _placeholders(field: str, values: Mapping[str, str], variables: Collection[str]) -> Violations:
    for name, value in values.items():
        for missing in [each for each in PLACEHOLDER.findall(value) if each not in variables]:
            yield FieldViolation(f"{field}[{name!r}]", f"names ${{{missing}}}, which is not in environment")


def _sub_agents(agent: runner_pb2.Agent) -> Violations:
    servers = {each.name for each in agent.mcp_servers}
    yield from at_most("agent.sub_agents", len(agent.sub_agents), MAX_SUB_AGENTS, "sub-agents")
    yield from _different("agent.sub_agents", [_GENERAL_PURPOSE, *(each.name for each in agent.sub_agents)])
    for index, sub_agent in enumerate(agent.sub_agents):
        field = f"agent.sub_agents[{index}]"
        yield from identifier(f"{field}.name", sub_agent.name)
        if not sub_agent.description.strip():
            yield FieldViolation(f"{field}.description", "must say what the sub-agent is good for")
        yield from text(f"{field}.description", sub_agent.description)
        yield from text(f"{field}.instructions", sub_agent.instructions)
        yield from _skills(f"{field}.skills", sub_agent.skills)
        for name in [*sub_agent.mcp_servers, *sub_agent.tool_selections]:
            if name not in servers:
                yield FieldViolation(f"{field}.mcp_servers", f"names {name!r}, which is not in agent.mcp_servers")


def _different(field: str, names: Iterable[str]) -> Violations:
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
