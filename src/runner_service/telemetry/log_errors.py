"""Writes errors without the texts of libraries, which may hold parts of secrets that no redactor can recognise."""

import traceback
from collections.abc import Iterator

_TRUSTED_PACKAGES = {"builtins", "runner_service", "asyncio"}
_MAX_ERRORS = 10


def format_error(error: BaseException) -> str:
    """Returns the tracebacks of an error, its causes and its parts. Of a library's error only the type is named."""
    texts = []
    for each, _ in zip(_related(error), range(_MAX_ERRORS), strict=False):
        frames = "".join(traceback.format_tb(each.__traceback__))
        head = "Traceback (most recent call last):\n" if frames else ""
        texts.append(f"{head}{frames}{_headline(each)}")
    return "\n\n".join(reversed(texts))


def describe_type(error: BaseException) -> str:
    """Returns the name of an error's type, with its package unless it is built in."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _headline(error: BaseException) -> str:
    is_trusted = type(error).__module__.partition(".")[0] in _TRUSTED_PACKAGES
    return f"{describe_type(error)}: {error}" if is_trusted else describe_type(error)


def _related(error: BaseException) -> Iterator[BaseException]:
    """Yields an error, then what it came from."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _related(part)
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _related(before)
