"""Reads environment variables into the annotated attributes of a class.

pydantic-settings would do, but takes a sixth of the memory at the first answer, and a quarter of the time until then.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin

from runner_service.settings.secret_str import SecretStr

T = TypeVar("T")

_TRUE, _FALSE = {"1", "true", "t", "yes", "y", "on"}, {"0", "false", "f", "no", "n", "off"}


class Problem(NamedTuple):
    """An invalid variable, and what it should be."""

    variable: str
    text: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.text}"


class SettingsError(Exception):
    """The environment is invalid. `problems` holds all that is wrong with it, without secrets."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class Computed(NamedTuple):
    """A default that follows from the attributes above it, which it gets by their names."""

    default: Callable[[Mapping[str, Any]], object]


def computed(default: Callable[[Mapping[str, Any]], object]) -> Any:  # of the type of its attribute
    """Returns a default that follows from the attributes above it."""
    return Computed(default)


def by_mode(local: T, cloud: T) -> Any:  # as above
    """Returns a default for each mode."""
    return Computed(lambda data: local if data["mode"] == "local" else cloud)


class Before(NamedTuple):
    """In an `Annotated` type: what is done with the text before it is converted."""

    change: Callable[[str], str]


class Variables:
    """Base of classes whose annotated attributes are variables of the same name in capitals. Instances are frozen.

    The value of an attribute in the class is its default, or `Computed`. The functions of an `Annotated` type get the
    converted value, in turn; each returns it, changed or not, or raises ValueError with what it should be. A default
    passes none of them.
    """

    given: frozenset[str]
    """The attributes whose variables are set."""

    @classmethod
    def types(cls) -> Mapping[str, Any]:
        """Returns the types of the attributes by their names, in the order of the class and of its parents."""
        groups = (each for each in cls.__mro__ if issubclass(each, Variables) and each is not Variables)
        return {name: kind for group in groups for name, kind in group.__annotations__.items()}

    @classmethod
    def names(cls) -> Sequence[str]:
        """Returns the names of the attributes, in the same order."""
        return tuple(cls.types())

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> tuple[Self, list[Problem]]:
        """Returns the values of `environ`, with the defaults of what is invalid there, and what is invalid.

        An empty value counts as none.
        """
        values: dict[str, Any] = {}
        given, problems = set(), []
        for name, kind in cls.types().items():
            if text := environ.get(name.upper()):
                try:
                    values[name] = _convert(text, kind)
                    given.add(name)
                    continue
                except ValueError as error:
                    problems.append(_problem(name, kind, text, error))
            default = getattr(cls, name)
            values[name] = default.default(values) if isinstance(default, Computed) else default
        variables = cls()
        vars(variables).update(values, given=frozenset(given))
        return variables, problems

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is read from the environment and does not change")


def is_secret(kind: object) -> bool:
    """Tells whether an attribute of that type holds a secret."""
    return kind is SecretStr or any(map(is_secret, get_args(kind)))


def _problem(name: str, kind: object, text: str, error: ValueError) -> Problem:
    is_shown = not (is_secret(kind) or "@" in text)  # an @ may come after a password
    return Problem(name.upper(), f"{error}, not {text!r}" if is_shown else str(error))


def _convert(text: str, kind: Any) -> object:
    """Returns the value of the type `kind` that `text` stands for.

    Raises:
        ValueError: there is none; the text says what it should be.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        plain, *steps = arguments
        for step in steps:
            text = step.change(text) if isinstance(step, Before) else text
        value = _convert(text, plain)
        for step in steps:
            value = value if isinstance(step, Before) else step(value)
        return value
    if origin in {Union, UnionType}:  # with None, which is what it is when it is not set
        return _convert(text, arguments[0])
    if origin is Literal:
        return _choice(text, arguments)
    return _CONVERTERS[kind](text)


def _choice(text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"should be {', '.join(others)} or {last}")
    return text


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("should be an integer") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("should be a number") from None


def _truth(text: str) -> bool:
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("should be 'true' or 'false'")
    return word in _TRUE


_CONVERTERS: Mapping[type, Callable[[str], object]] = {
    str: str,
    int: _integer,
    float: _number,
    bool: _truth,
    Path: Path,
    SecretStr: SecretStr,
}
