"""Prepares an agent's skills, MCP tools and sub-agents."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module

from langchain_core.tools import BaseTool

from runner_service.agent.interface import AgentRun
from runner_service.agent.skills import SkillInstaller
from runner_service.agent.tools.scope import current_scope
from runner_service.approvals.policy import McpTool
from runner_service.v1 import agent_runner_pb2 as runner_pb2

BUILT_IN = frozenset({"execute", "ls", "read_file", "write_file", "edit_file", "glob", "grep", "write_todos", "task"})
"""The tools that every agent has."""

Tools = Mapping[str, Mapping[str, BaseTool]]


@dataclass(frozen=True)
class SubAgentPlan:
    """A sub-agent to compile."""

    name: str
    description: str
    instructions: str
    tools: tuple[BaseTool, ...] = ()


@dataclass(frozen=True)
class AgentPlan:
    """An agent to compile. Without tools, executions with equal plans share the compiled graph."""

    instructions: str
    sub_agents: tuple[SubAgentPlan, ...] = ()
    tools: tuple[BaseTool, ...] = ()


@asynccontextmanager
async def prepare_agent(run: AgentRun) -> AsyncIterator[AgentPlan]:
    """Installs the skills and connects the MCP servers of a run's agent; disconnects at the end.

    What is unavailable is left out, with a notice.
    """
    agent = run.agent
    skills = SkillInstaller(run)
    own = await skills.install(agent.skills)
    prompts = [await skills.install(each.skills) for each in agent.sub_agents]
    texts = [
        [each.description, _join(each.instructions, prompt)]
        for each, prompt in zip(agent.sub_agents, prompts, strict=True)
    ]
    instructions, texts = await run.redactor.any_value([_join(agent.instructions, own), texts])
    async with _tools(run) as tools:
        sub_agents = [
            SubAgentPlan(each.name, description, text, _select_tools(each, tools))
            for each, (description, text) in zip(agent.sub_agents, texts, strict=True)
        ]
        current_scope.get().mcp_tools = _mcp_tools(tools)
        all_tools = tuple(tool for server in tools.values() for tool in server.values())
        yield AgentPlan(instructions, tuple(sub_agents), all_tools)


@asynccontextmanager
async def _tools(run: AgentRun) -> AsyncIterator[Tools]:
    if not run.agent.mcp_servers:
        yield {}
        return
    # The first import takes half a second.
    connections = await asyncio.to_thread(import_module, "runner_service.agent.mcp.connections")
    async with connections.connect_servers(run, BUILT_IN) as tools:
        yield tools


def _mcp_tools(tools: Tools) -> Mapping[str, McpTool]:
    """Returns, by the names that the model uses, where tools come from and what their servers say of them."""
    found: dict[str, McpTool] = {}
    for server, by_name in tools.items():
        for name, tool in by_name.items():
            hints = tool.metadata or {}
            found[tool.name] = McpTool(
                server,
                name,
                read_only=hints.get("readOnlyHint") is True,
                destructive=hints.get("destructiveHint") is True,
                open_world=hints.get("openWorldHint") is True,
            )
    return found


def _select_tools(sub_agent: runner_pb2.SubAgent, tools: Tools) -> tuple[BaseTool, ...]:
    found: list[BaseTool] = []
    for server in sub_agent.mcp_servers:
        wanted = set(sub_agent.tool_selections[server].enabled_tools) if server in sub_agent.tool_selections else set()
        found += [tool for name, tool in tools.get(server, {}).items() if not wanted or name in wanted]
    return tuple(found)


def _join(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
