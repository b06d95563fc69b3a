"""The scripts of `scripts/`, and the commands that run them."""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

Argument = str | bytes | int | float
Command = Sequence[Argument]
ScriptCall = tuple[Sequence[str], Sequence[Argument]]
"""Keys and arguments."""

_TEXTS: dict[str, bytes] = {}


@cache
def script(name: str) -> tuple[bytes, str]:
    """Returns the text of a script, and its digest."""
    text = resources.files("runner_service.storage.redis").joinpath("scripts", f"{name}.lua").read_bytes()
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
    _TEXTS[digest] = text
    return text, digest


def evalsha(name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Command:
    """Returns the command that runs a script which the server has."""
    return ["EVALSHA", script(name)[1], len(keys), *keys, *arguments]


def load_of(command: Command) -> Command:
    """Returns the command that gives the server the script of an `evalsha`."""
    return ["SCRIPT LOAD", _TEXTS[str(command[1])]]


def key_of(command: Command) -> str | bytes:
    """Returns the first key of a command that has keys."""
    key = command[3] if command[0] == "EVALSHA" else command[1]
    return key if isinstance(key, bytes) else str(key)
