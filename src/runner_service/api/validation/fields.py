"""Rules that many fields of requests have in common."""

import re
from collections.abc import Iterator

from runner_service.errors import FieldViolation

MAX_TEXT_BYTES = 1024 * 1024
"""The longest text that people write for a model."""

MAX_NAME = 256
"""How many characters a name for people or for a model may have."""

MAX_VARIABLES = 256
MAX_ENVIRONMENT_BYTES = 256 * 1024
"""How many variables an environment may have, and how many bytes their names and values together."""

Violations = Iterator[FieldViolation]

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_IDENTIFIER_RULE = "must begin with a letter or digit and hold at most 128 letters, digits, '.', '_' and '-'"


def identifier(field: str, value: str) -> Violations:
    """Wants a value that can stand anywhere, as a file name for example."""
    if not _IDENTIFIER.fullmatch(value):
        yield FieldViolation(field, _IDENTIFIER_RULE)


def not_negative(field: str, value: int) -> Violations:
    """Wants a number from zero."""
    if value < 0:
        yield FieldViolation(field, "must not be negative")


def at_most(field: str, size: int, limit: int, unit: str) -> Violations:
    """Wants a size within its limit."""
    if size > limit:
        yield FieldViolation(field, f"must have at most {limit} {unit}, not {size}")


def text(field: str, value: str) -> Violations:
    """Wants a text of a size that a model can be given."""
    yield from at_most(field, len(value.encode()), MAX_TEXT_BYTES, "bytes")
