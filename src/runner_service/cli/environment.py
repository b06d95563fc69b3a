"""Settings from the environment."""

from collections.abc import Mapping

from runner_service.cli.errors import CommandError, ExitCode
from runner_service.settings import Settings, SettingsError, load_settings


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Returns the settings in `environ`.

    Raises:
        CommandError: they are invalid; the text names each variable and what it should be.
    """
    try:
        return load_settings(environ)
    except SettingsError as error:
        lines = [f"  {problem}" for problem in error.problems]
        text = "\n".join(["the environment cannot be used; correct these variables:", *lines])
        raise CommandError(text, ExitCode.CONFIG) from None
