"""The environment variables that a command works with."""

from collections.abc import Mapping

from runner_service.cli.exits import ExitCode, Failure
from runner_service.settings import Settings, SettingsError, load_settings


def settings_of(environ: Mapping[str, str]) -> Settings:
    """Returns the settings in `environ`.

    Raises:
        Failure: they are wrong; each variable is told, and what it should be.
    """
    try:
        return load_settings(environ)
    except SettingsError as error:
        lines = [f"  {problem}" for problem in error.problems]
        text = "\n".join(["the environment cannot be used; correct these variables:", *lines])
        raise Failure(text, ExitCode.CONFIG) from None
