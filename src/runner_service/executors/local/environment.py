"""The environment of a command: what the caller gave, over the little of the service's own that programs need."""

import os
from collections.abc import Mapping

_PASSED_ON = ("PATH", "HOME", "LANG", "LANGUAGE", "TMPDIR", "USER", "LOGNAME", "SHELL", "TZ")
_ALWAYS = {"TERM": "dumb", "PYTHONUNBUFFERED": "1"}
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def command_environment(given: Mapping[str, str], *, root: str) -> dict[str, str]:
    """Returns the variables of a command. Nothing else of the service's environment gets in, so no secret of its."""
    own = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    locale = {name: value for name, value in os.environ.items() if name.startswith("LC_")}
    return {"PATH": _DEFAULT_PATH, "HOME": root, **own, **locale, **_ALWAYS, **given}
