"""Settings from the environment: read once, validated as a whole, frozen."""

from runner_service.settings.description import Row, describe
from runner_service.settings.groups.callers import DUMMY_API_KEY
from runner_service.settings.groups.models import Provider
from runner_service.settings.loading import EXIT_CONFIG, load_settings, warnings_about
from runner_service.settings.reading import Problem, SettingsError
from runner_service.settings.secret_str import SecretStr
from runner_service.settings.variables import Settings

__all__ = [
    "DUMMY_API_KEY",
    "EXIT_CONFIG",
    "Problem",
    "Provider",
    "Row",
    "SecretStr",
    "Settings",
    "SettingsError",
    "describe",
    "load_settings",
    "warnings_about",
]
