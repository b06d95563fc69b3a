"""The options for how events are shown."""

import functools
from collections.abc import Callable
from enum import Enum
from typing import Any

import click


class ViewOptions(Enum):
    """The ways to show events."""

    BEST = "best"
    """Live on a terminal, plain elsewhere."""
    PLAIN = "plain"
    JSON = "json"
    QUIET = "quiet"
    HTML = "html"
    """A page for a browser, written when all events are there."""


def view_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets their value as `view`."""

    @click.option("--json", "as_json", is_flag=True, help="One event per line, as the proto's JSON; for programs.")
    @click.option("--plain", is_flag=True, help="Plain lines, as when the output is piped.")
    @click.option("--quiet", "-q", is_flag=True, help="Only the final answer.")
    @functools.wraps(command)
    def with_view(*args: Any, as_json: bool, plain: bool, quiet: bool, **options: Any) -> Any:
        chosen = {ViewOptions.JSON: as_json, ViewOptions.PLAIN: plain, ViewOptions.QUIET: quiet}
        wanted = [view for view, is_wanted in chosen.items() if is_wanted]
        if len(wanted) > 1:
            raise click.UsageError("--json, --plain and --quiet exclude each other")
        return command(*args, view=wanted[0] if wanted else ViewOptions.BEST, **options)

    return with_view
