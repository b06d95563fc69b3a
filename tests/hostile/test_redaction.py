"""Secrets, and texts that look for trouble with them.

All but the last were seen to fail: with the redactor of the first release, or, where it says so, with a later one.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from tests.hostile.conftest import ATTACKING, Attack, attacking

from runner_service.v1 import agent_runner_pb2 as runner_pb2

pytestmark = pytest.mark.long

chance = random.Random(1)
FILL = "head -c 30000000 /dev/zero | tr '\\0'"
EXEC = 120_000  # bytes of one variable: the kernel takes no more


def words(count: int, length: int, alphabet: str = "abcdefghijklmnopqrstuvwxyz0123456789") -> list[str]:
    return ["".join(chance.choices(alphabet, k=length)) for _ in range(count)]


class Case(NamedTuple):
    """Secrets, made at need, and a command that prints."""

    secrets: Callable[[], Sequence[str]]
    printing: str


CASES = {
    "two that are long": Case(lambda: words(2, EXEC), f"{FILL} a"),
    "many": Case(lambda: words(240, 1000), f"{FILL} a"),
    "keys of many lines": Case(lambda: ["\n".join(words(56, 64)) for _ in range(60)], f"{FILL} '\\n'"),
    "one that a stream seems to begin": Case(lambda: ["aaaab" + words(1, EXEC)[0]], f"{FILL} a"),
    # Comparing each form at each place.
    "one that a stream is, but for its end": Case(lambda: ["a" * (EXEC - 1) + "b"], f"{FILL} a"),
    # Looking for the longest of all forms that begin alike.
    "many that begin alike": Case(
        lambda: ["x" * 300 + each for each in words(200, 100)], "yes $(printf 'x%.0s' $(seq 300)) | head -c 10000000"
    ),
    # Trying each shorter form where a longer one ends early. Failed with a search of all places for all forms.
    "each the beginning of the next": Case(lambda: ["ab" * n for n in range(3, 250)], "yes ab | head -c 20000000"),
    # Unescaping: each byte is written as four to six.
    "one of special characters": Case(lambda: ['"\\<&\x01' * (EXEC // 5)], f"{FILL} '\"'"),
    # Looking up where the text without line ends was in the whole.
    "a text of line ends": Case(lambda: ["aaaab" + words(1, 1000)[0]], "yes a | head -c 20000000"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_a_secret_keeps_nobody_waiting(attack: Attack, name: str) -> None:
    case = CASES[name]
    secrets = {
        f"SECRET_{number}": runner_pb2.EnvironmentValue(value=value, is_secret=True)
        for number, value in enumerate(case.secrets())
    }
    async with attack(ATTACKING, fields=attacking(case.printing, secrets)) as target:
        await target.answers()
        await target.cancel()
