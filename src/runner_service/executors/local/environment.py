"""The environment of a command: the caller's variables over an allow-list of the service's own."""

import os
from collections.abc import Mapping

_INHERITED = ("PATH", "HOME", "LANG", "LANGUAGE", "TMPDIR", "USER", "LOGNAME", "SHELL", "TZ")
_ALWAYS = {"TERM": "dumb", "PYTHONUNBUFFERED": "1"}
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def inherited_environment() -> dict[str, str]:
    """Returns the variables of the service that commands have. It takes some time, since all have to be looked at."""
    own = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**own, **{name: value for name, value in os.environ.items() if name.startswith("LC_")}}


def command_environment(
    given: Mapping[str, str], *, root: str, inherited: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Returns the variables of a command. No other variable of the service is passed, so none of its secrets are."""
    own = inherited_environment() if inherited is None else inherited
    return {"PATH": _DEFAULT_PATH, "HOME": root, **own, **_ALWAYS, **given}
