"""Secret variables: prompted for, passed over a pipe, removed from environments."""

import json
import os
from collections.abc import Mapping, MutableMapping

from runner_service.cli.errors import CommandError, ExitCode
from runner_service.cli.prompts import is_interactive, prompt_secret
from runner_service.settings import Provider, Settings
from runner_service.settings.variables import secret_names

SECRET_VARIABLES = frozenset(map(str.upper, secret_names()))

_KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


def read_secrets(fd: int) -> dict[str, str]:
    """Reads a JSON object of secret variables from `fd` to its end, and closes it.

    Raises:
        CommandError: it is not such an object. The text quotes nothing of it.
    """
    try:
        with os.fdopen(fd, "rb") as stream:
            content = json.loads(stream.read())
    except OSError as error:
        raise CommandError(f"--secrets-fd {fd} cannot be read: {error.strerror}", ExitCode.CONFIG) from error
    except ValueError:
        content = None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        text = 'should give a JSON object of texts, such as {"OPENAI_API_KEY": "…"}'
        raise CommandError(f"--secrets-fd {fd} {text}", ExitCode.CONFIG)
    if content.keys() - SECRET_VARIABLES:  # what is unknown is not repeated: it may well be a secret
        known = ", ".join(sorted(SECRET_VARIABLES))
        raise CommandError(f"--secrets-fd {fd} holds a name that is not one of {known}", ExitCode.CONFIG)
    return content


def write_secrets(keys: Mapping[str, str]) -> int:
    """Returns the reading end of a pipe that holds `keys` for `read_secrets`."""
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
        raise CommandError("the keys in the environment are longer than a pipe holds (64 KiB)", ExitCode.CONFIG)
    return reader


def pop_secrets(environ: MutableMapping[str, str]) -> dict[str, str]:
    """Removes the secret variables from `environ`, so that no child process inherits them, and returns them."""
    return {name: environ.pop(name) for name in SECRET_VARIABLES & environ.keys()}


def missing_key_variable(settings: Settings, provider: Provider) -> str:
    """Returns the variable of the provider's key if it needs one that is not there; else an empty text."""
    if settings.llm_api_key(provider) or settings.llm_base_url(provider):
        return ""
    return _KEY_VARIABLES.get(provider, "")


def prompt_for_missing_key(settings: Settings, provider: Provider) -> dict[str, str]:
    """Prompts for the key of `provider` if it is missing and there is a terminal.

    Returns the variable and its value, or nothing.
    """
    variable = missing_key_variable(settings, provider)
    if not (variable and is_interactive()):
        return {}
    key = prompt_secret(f"{variable} (kept in memory only; empty: go on without)")
    return {variable: key} if key else {}


def required_key(settings: Settings, provider: Provider) -> dict[str, str]:
    """Returns the variable and value of a key that is missing, from a prompt; nothing if none is.

    Raises:
        CommandError: it is missing, and nobody gives it.
    """
    variable = missing_key_variable(settings, provider)
    if not variable:
        return {}
    if key := prompt_for_missing_key(settings, provider):
        return key
    raise CommandError(
        f"there is no key for {provider}: set {variable}, run this in a terminal to be asked for it, or choose "
        "another model with --model (--model scripted needs neither key nor model)",
        ExitCode.CONFIG,
    )
