"""Builds the request of `run` from its options."""

import os
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from runner_service.cli.errors import CommandError, ExitCode, print_message
from runner_service.cli.prompts import is_interactive, prompt_secret
from runner_service.v1 import agent_runner_pb2 as runner_pb2


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


def build_request(wish: RunOptions) -> runner_pb2.ExecuteAgentRequest:
    """Builds the request. Reads the files and standard input that it names, and prompts for missing secrets.

    Raises:
        CommandError: an option is wrong.
    """
    provider, model = model_of(wish.model)
    request = runner_pb2.ExecuteAgentRequest(
        execution_id=wish.execution_id or secrets.token_hex(6),
        session_id=wish.session_id,
        agent=runner_pb2.Agent(
            name="assistant",
            instructions=_text_or_file(wish.instructions),
            model=runner_pb2.Model(provider=provider, name=model),
        ),
        message=_message(wish.message),
        environment=dict([*map(_variable, wish.variables), *map(_secret, wish.secrets)]),
        disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH if wish.detach else runner_pb2.DISCONNECT_POLICY_CANCEL,
        labels=dict(_pairs("--label", wish.labels)),
    )
    if wish.timeout is not None:
        request.limits.timeout.FromNanoseconds(int(wish.timeout * 1e9))
    return request


def model_of(text: str) -> tuple[str, str]:
    """Returns the provider and the model's name that `[provider/]name` says; a provider alone is one, too."""
    if not text:
        return "", ""
    from runner_service.settings import Provider  # noqa: PLC0415  # 130 ms, most of them pydantic's

    provider, _, name = text.partition("/")
    return (provider, name) if provider in get_args(Provider) else ("", text)


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


def _pairs(option: str, texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise CommandError(f"{option} {text}: should be KEY=VALUE", ExitCode.USAGE)
        yield key, value
