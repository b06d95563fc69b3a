"""Builds the request of `run` from its options."""

import os
import secrets
import sys
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from runner_service.cli.errors import CommandError, ExitCode, print_message
from runner_service.cli.model_names import model_of
from runner_service.cli.parameters import key_value_pairs
from runner_service.cli.prompts import is_interactive, prompt_secret
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2

_APPROVAL_MODES = {
    "commands": policy_pb2.APPROVAL_MODE_ASK_COMMANDS,
    "effects": policy_pb2.APPROVAL_MODE_ASK_EFFECTS,
}


@dataclass(frozen=True)
class RunOptions:
    """The options of `run`, unparsed."""

    message: str
    execution_id: str
    session_id: str
    model: str
    instructions: str
    variables: tuple[str, ...]
    secrets: tuple[str, ...]
    timeout: float | None
    labels: tuple[str, ...]
    detach: bool
    agent_file: Path | None = None
    skills: tuple[Path, ...] = ()
    mcp_servers: tuple[str, ...] = ()
    continues: bool = False
    """Take the newest session here."""
    asks_about: str = ""
    """Which tool calls wait for approval: `commands`, `effects`, or none."""
    waits_for_approvals: bool = False
    """Without a terminal, leave approvals to somebody else rather than refuse."""


def build_request(run_options: RunOptions, *, is_provider_set: bool) -> runner_pb2.ExecuteAgentRequest:
    """Builds the request. Reads the files and standard input that it names, and prompts for missing secrets.

    `is_provider_set`: see `model_of`.

    Raises:
        CommandError: an option is wrong.
    """
    provider, model = model_of(run_options.model, is_provider_set=is_provider_set)
    agent, limits = _agent(run_options)
    if provider or model:
        agent.model.provider, agent.model.name = provider, model
    policy = runner_pb2.DISCONNECT_POLICY_DETACH if run_options.detach else runner_pb2.DISCONNECT_POLICY_CANCEL
    execution_id = run_options.execution_id or secrets.token_hex(6)
    request = runner_pb2.ExecuteAgentRequest(
        execution_id=execution_id,
        session_id=run_options.session_id or execution_id,  # or --continue would find nothing
        agent=agent,
        limits=limits,
        message=_message(run_options.message),
        environment=dict([*map(_variable, run_options.variables), *map(_secret, run_options.secrets)]),
        disconnect_policy=policy,
        labels=dict(key_value_pairs("--label", run_options.labels)),
    )
    if run_options.asks_about:
        request.approval_policy.mode = _APPROVAL_MODES[run_options.asks_about]
    if run_options.timeout is not None:
        request.limits.timeout.FromNanoseconds(int(run_options.timeout * 1e9))
    return request


def _agent(run_options: RunOptions) -> tuple[runner_pb2.Agent, runner_pb2.ExecutionLimits]:
    """Returns what the agent's file says, with what the options add to it, or put in its place."""
    agent, limits = runner_pb2.Agent(name="assistant"), runner_pb2.ExecutionLimits()
    if run_options.agent_file is not None or run_options.skills or run_options.mcp_servers:
        from runner_service.cli.agent_file import mcp_server, read_agent_file, read_skill  # noqa: PLC0415  # YAML: 20 ms

        if run_options.agent_file is not None:
            agent, limits = read_agent_file(run_options.agent_file)
        agent.skills.extend(map(read_skill, run_options.skills))
        for server in map(mcp_server, run_options.mcp_servers):
            agent.mcp_servers.append(server)
            _make_name_unique(agent)
    if run_options.instructions:
        agent.instructions = _text_or_file(run_options.instructions)
    return agent, limits


def _make_name_unique(agent: runner_pb2.Agent) -> None:
    *others, newest = agent.mcp_servers
    taken, name = {each.name for each in others}, newest.name
    candidates = chain([name], (f"{name}-{number}" for number in count(2)))
    newest.name = next(each for each in candidates if each not in taken)


def _message(text: str) -> str:
    if text != "-":
        return text
    if sys.stdin.isatty():
        print_message("type the message; end it with Ctrl-D")
    return sys.stdin.read()


def _text_or_file(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--instructions {text} cannot be read: {error}", ExitCode.USAGE) from error


def _variable(text: str) -> tuple[str, runner_pb2.EnvironmentValue]:
    name, equals, value = text.partition("=")
    if not equals and (found := os.environ.get(name)) is not None:
        value = found
    elif not equals:
        raise CommandError(
            f"--env {name}: give it a value, {name}=VALUE, or set {name} in the environment", ExitCode.USAGE
        )
    return name, runner_pb2.EnvironmentValue(value=value)


def _secret(name: str) -> tuple[str, runner_pb2.EnvironmentValue]:
    if "=" in name:
        name = name.partition("=")[0]
        text = "a secret on the command line can be read by others, and stays in the shell's history; set"
        raise CommandError(f"--secret {name}: {text} {name} in the environment, or enter it when asked", ExitCode.USAGE)
    value = os.environ.get(name) or (prompt_secret(name) if is_interactive() else "")
    if not value:
        text = "is not set in the environment, and there is no terminal to ask at"
        raise CommandError(
            f"--secret {name}: {name} {text}" if not is_interactive() else f"--secret {name}: no value given",
            ExitCode.USAGE,
        )
    return name, runner_pb2.EnvironmentValue(value=value, is_secret=True)
