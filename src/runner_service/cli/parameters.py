"""Values of options that several commands take."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import click

from runner_service.cli.errors import CommandError, ExitCode

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class _Age(click.ParamType[float]):
    """A number with a unit, as seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns seconds."""
        match = _AGE.fullmatch(str(value))
        if match is None:
            self.fail("should be a number and a unit: 90s, 30m, 2h or 1d", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


AGE = _Age()


def key_value_pairs(option: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields the parts of KEY=VALUE texts. Raises CommandError."""
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise CommandError(f"{option} {text}: should be KEY=VALUE", ExitCode.USAGE)
        yield key, value
