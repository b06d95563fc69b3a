"""How a variable becomes a value: what each type takes, and what is said of the rest."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from runner_service.settings.reading import Computed, Problem, Variables
from runner_service.settings.secret_str import SecretStr
from runner_service.settings.types import Count, Seconds, at_least, in_any_case


class Example(Variables):
    count: Count = 3
    seconds: Seconds | None = None
    ratio: Annotated[float, at_least(0, 2)] = 0.5
    enabled: bool = False
    path: Annotated[Path, Path.absolute] = Path("relative")
    level: Annotated[Literal["low", "high"], in_any_case] = "low"
    exact: Literal["low", "high"] | None = None
    secret: SecretStr | None = None
    twice: Any = Computed(lambda data: data["count"] * 2)


def test_defaults_are_as_they_are_and_computed_ones_follow_the_values_above() -> None:
    example, problems = Example.read({"COUNT": "", "count": "7", "OTHER": "x"})
    assert problems == []
    assert (example.count, example.path, example.twice, example.given) == (3, Path("relative"), 6, frozenset())
    example, _ = Example.read({"COUNT": "7"})
    assert (example.twice, example.given) == (14, frozenset({"count"}))


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("COUNT", " 1_000 ", 1000),
        ("SECONDS", "2.5", 2.5),
        ("RATIO", "2", 2.0),
        ("ENABLED", "Yes", True),
        ("ENABLED", "off", False),
        ("PATH", "/a/b", Path("/a/b")),
        ("LEVEL", "HIGH", "high"),
        ("EXACT", "high", "high"),
        ("SECRET", "s", SecretStr("s")),
    ],
)
def test_each_type_takes_its_values(variable: str, text: str, value: object) -> None:
    example, problems = Example.read({variable: text})
    assert problems == []
    assert getattr(example, variable.lower()) == value


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("COUNT", "many", "should be an integer, not 'many'"),
        ("COUNT", "1.5", "should be an integer, not '1.5'"),
        ("COUNT", "0", "should be at least 1, not '0'"),
        ("SECONDS", "soon", "should be a number, not 'soon'"),
        ("SECONDS", "0", "should be a finite number above 0, not '0'"),
        ("SECONDS", "inf", "should be a finite number above 0, not 'inf'"),
        ("RATIO", "nan", "should be from 0 to 2, not 'nan'"),
        ("RATIO", "2.1", "should be from 0 to 2, not '2.1'"),
        ("ENABLED", "maybe", "should be 'true' or 'false', not 'maybe'"),
        ("LEVEL", "middle", "should be 'low' or 'high', not 'middle'"),
        ("EXACT", "HIGH", "should be 'low' or 'high', not 'HIGH'"),
        ("EXACT", "user:password@host", "should be 'low' or 'high'"),
    ],
)
def test_what_is_invalid_is_told_and_has_its_default(variable: str, text: str, problem: str) -> None:
    example, problems = Example.read({variable: text})
    assert problems == [Problem(variable, problem)]
    assert getattr(example, variable.lower()) == getattr(Example, variable.lower())
    assert example.given == frozenset()


def test_a_secret_is_not_shown_and_counts_as_its_text() -> None:
    secret = SecretStr("hidden")
    assert "hidden" not in f"{secret} {secret!r} {[secret]}"
    assert (secret, hash(secret)) == (SecretStr("hidden"), hash(SecretStr("hidden")))
    assert secret != SecretStr("other")
    assert secret
    assert not SecretStr("")
