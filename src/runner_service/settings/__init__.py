"""Settings from the environment: read once, validated as a whole, frozen."""

from runner_service.settings.description import Row, describe
from runner_service.settings.loading import EXIT_CONFIG, Problem, SettingsError, load_settings, warnings_about
from runner_service.settings.variables import DUMMY_API_KEY, Provider, Settings

__all__ = [
    "DUMMY_API_KEY",
    "EXIT_CONFIG",
    "Problem",
    "Provider",
    "Row",
    "Settings",
    "SettingsError",
    "describe",
    "load_settings",
    "warnings_about",
]
