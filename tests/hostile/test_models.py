"""Answers of models that ask for more than anybody can do.

The first held the event loop for seconds in the first release. The others were not seen to fail.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.hostile.conftest import Attack
from tests.running import Turns, command, turn

pytestmark = pytest.mark.long

Calls = Sequence[tuple[str, dict[str, Any]]]


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


ANSWERS: Mapping[str, Calls] = {
    "a thousand calls in one message": [command("true")] * 1000,
    # All at once.
    "as many commands as a message may have": [command("sleep 0.1")] * 256,
    "as many writes of one file as a message may have": [
        ("write_file", {"file_path": "/a", "content": "x" * 10_000})
    ] * 256,
    "as many sub-agents as a message may have": [
        ("task", {"subagent_type": "general-purpose", "description": "Do it."})
    ] * 256,
    # In one.
    "arguments of two megabytes": [("write_file", {"file_path": "/a", "content": "x" * 2_000_000})],
    "arguments of fifty thousand values": [("write_todos", {"todos": [{}] * 50_000})],
    "arguments nested 150 deep": [("write_todos", {"todos": [nested(150)]})],
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_keeps_nobody_waiting(attack: Attack, name: str) -> None:
    turns: Turns = [turn("", *ANSWERS[name])]
    async with attack(turns, until=lambda event: True) as target:
        await target.answers()
        await target.cancel()
