"""The request that the options of `run` make."""

import os
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from runner_service.cli.asking import ask_hidden, at_a_terminal
from runner_service.cli.exits import ExitCode, Failure, tell
from runner_service.v1 import agent_runner_pb2 as runner_pb2


@dataclass(frozen=True)
class Wish:
    """What the options of `run` say, as they say it."""

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


def make_request(wish: Wish) -> runner_pb2.ExecuteAgentRequest:
    """Makes the request. Reads the files and standard input that it names, and asks for secrets that are nowhere.

    Raises:
        Failure: an option is wrong.
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
        tell("what is to be done? End with Ctrl-D.")
    return sys.stdin.read()


def _text_or_file(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"--instructions {text} cannot be read: {error}", ExitCode.USAGE) from error


def _variable(text: str) -> tuple[str, runner_pb2.EnvironmentValue]:
    name, equals, value = text.partition("=")
    if not equals and (found := os.environ.get(name)) is not None:
        value = found
    elif not equals:
        raise Failure(f"--env {name}: give it a value, {name}=VALUE, or set {name} in the environment", ExitCode.USAGE)
    return name, runner_pb2.EnvironmentValue(value=value)


def _secret(name: str) -> tuple[str, runner_pb2.EnvironmentValue]:
    if "=" in name:
        name = name.partition("=")[0]
        text = "a secret on the command line can be read by others, and stays in the shell's history; set"
        raise Failure(f"--secret {name}: {text} {name} in the environment, or enter it when asked", ExitCode.USAGE)
    value = os.environ.get(name) or (ask_hidden(name) if at_a_terminal() else "")
    if not value:
        text = "is not set in the environment, and there is no terminal to ask at"
        raise Failure(
            f"--secret {name}: {name} {text}" if not at_a_terminal() else f"--secret {name}: no value given",
            ExitCode.USAGE,
        )
    return name, runner_pb2.EnvironmentValue(value=value, is_secret=True)


def _pairs(option: str, texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise Failure(f"{option} {text}: should be KEY=VALUE", ExitCode.USAGE)
        yield key, value
