"""Validation rules shared by many request fields."""

import re
from collections.abc import Iterator

from runner_service.errors import FieldViolation

MAX_TEXT_BYTES = 1024 * 1024
"""Limit of a text written for a model: instructions, messages, skills."""

MAX_NAME_CHARACTERS = 256
"""Limit of a display name."""

MAX_VARIABLES = 256
MAX_ENVIRONMENT_BYTES = 256 * 1024
"""Limits of an environment: the number of variables, and the size of their names and values together."""

Violations = Iterator[FieldViolation]

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_IDENTIFIER_RULE = "must begin with a letter or digit and hold at most 128 letters, digits, '.', '_' and '-'"


def identifier(field: str, value: str) -> Violations:
    """Requires a value that is safe anywhere, for example as a file name."""
    if not _IDENTIFIER.fullmatch(value):
        yield FieldViolation(field, _IDENTIFIER_RULE)


def not_negative(field: str, value: int) -> Violations:
    """Requires a number that is zero or more."""
    if value < 0:
        yield FieldViolation(field, "must not be negative")


def at_most(field: str, size: int, limit: int, unit: str) -> Violations:
    """Requires a size within its limit."""
    if size > limit:
        yield FieldViolation(field, f"must have at most {limit} {unit}, not {size}")


def text_size(field: str, value: str) -> Violations:
    """Requires a text of at most MAX_TEXT_BYTES."""
    yield from at_most(field, len(value.encode()), MAX_TEXT_BYTES, "bytes")
