"""Secret variables of the service: asked for, passed on over a pipe, and kept out of environments."""

import json
import os
from collections.abc import Mapping, MutableMapping

from runner_service.cli.asking import ask_hidden, at_a_terminal
from runner_service.cli.exits import ExitCode, Failure
from runner_service.settings import Provider, Settings
from runner_service.settings.variables import is_secret

SECRET_VARIABLES = frozenset(name.upper() for name in Settings.model_fields if is_secret(name))

_KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


def read_keys(fd: int) -> dict[str, str]:
    """Reads a JSON object of secret variables to the end of `fd`, and closes it.

    Raises:
        Failure: it is no such object. The text holds nothing of it.
    """
    try:
        with os.fdopen(fd, "rb") as stream:
            content = json.loads(stream.read())
    except OSError as error:
        raise Failure(f"--secrets-fd {fd} cannot be read: {error.strerror}", ExitCode.CONFIG) from error
    except ValueError:
        content = None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        text = 'should give a JSON object of texts, such as {"OPENAI_API_KEY": "…"}'
        raise Failure(f"--secrets-fd {fd} {text}", ExitCode.CONFIG)
    if content.keys() - SECRET_VARIABLES:  # what is unknown is not repeated: it may well be a secret
        known = ", ".join(sorted(SECRET_VARIABLES))
        raise Failure(f"--secrets-fd {fd} holds a name that is not one of {known}", ExitCode.CONFIG)
    return content


def write_keys(keys: Mapping[str, str]) -> int:
    """Returns the reading end of a pipe that holds `keys` for `read_keys`."""
    reader, writer = os.pipe()
    data = json.dumps(keys).encode()
    os.set_blocking(writer, False)
    try:
        written = os.write(writer, data)
    except BlockingIOError:
        written = 0
    finally:
        os.close(writer)
    if written < len(data):
        os.close(reader)
        raise Failure("the keys in the environment are longer than a pipe holds (64 KiB)", ExitCode.CONFIG)
    return reader


def take_keys(environ: MutableMapping[str, str]) -> dict[str, str]:
    """Removes the secret variables from `environ` and returns them, so that no child inherits them by accident."""
    return {name: environ.pop(name) for name in SECRET_VARIABLES & environ.keys()}


def ask_for_missing_key(settings: Settings, provider: Provider) -> dict[str, str]:
    """Asks at the terminal, if there is one, for the key of `provider` when it is missing.

    Returns the variable and its value, or nothing.
    """
    variable = _KEY_VARIABLES.get(provider)
    if variable is None or settings.llm_api_key(provider) or settings.llm_base_url(provider) or not at_a_terminal():
        return {}
    key = ask_hidden(f"{variable} (kept in memory only; empty: go on without)")
    return {variable: key} if key else {}
