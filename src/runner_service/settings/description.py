"""The settings as rows for people, with every secret masked."""

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

from runner_service.settings.groups.callers import DUMMY_API_KEY
from runner_service.settings.secret_str import SecretStr
from runner_service.settings.variables import Settings


class Row(NamedTuple):
    """A variable: its value as text (masked when secret), whether it was set or is the default, and what it means."""

    variable: str
    value: str
    source: Literal["default", "env"]
    meaning: str


def describe(settings: Settings) -> list[Row]:
    """Returns a row for each variable, in the order of the class."""
    return [
        Row(
            variable=name.upper(),
            value=_shown(getattr(settings, name)),
            source="env" if name in settings.given else "default",
            meaning=meanings()[name],
        )
        for name in Settings.names()
    ]


@cache
def meanings() -> dict[str, str]:
    """Returns the docstring of each field. Read from the source, where they stand."""
    return {name: text for group in Settings.__bases__ for name, text in _documented(group)}


def _documented(group: type) -> Iterator[tuple[str, str]]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(group))).body
    if not isinstance(definition, ast.ClassDef):
        raise TypeError(f"the source of {group.__name__} is not a class")
    for field, below in itertools.pairwise(definition.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return DUMMY_API_KEY if value.get_secret_value() == DUMMY_API_KEY else "********"
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
