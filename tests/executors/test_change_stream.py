"""Changes come through as they were, and nothing of a hostile sender is believed that can be checked."""

import hashlib
import json
from typing import Any

import pytest

from runner_service.executors.change_stream import ChangeReader, encode_change, state_fields, state_in
from runner_service.executors.protocol import SandboxError
from runner_service.executors.tracking import FileState, FoundChange


def state(data: bytes, kind: str = "file") -> FileState:
    return FileState(kind, len(data), hashlib.sha256(data).hexdigest())


CHANGES = [
    FoundChange("a", None, state(b"{\n}"), {state(b"{\n}").sha256: b"{\n}"}, 1.5),
    FoundChange(
        "d/\udcff\n",
        state(b"", "executable"),
        state(b"\0", "symlink"),
        {state(b"").sha256: b"", state(b"\0").sha256: b"\0"},
        is_exact=True,
    ),
    FoundChange("large", FileState("file", 1 << 40, "", "1:2"), None),
    FoundChange("nested", None, FileState("repository", 0, "", "nested")),
]


async def read(data: bytes, size: int) -> tuple[list[FoundChange], ChangeReader]:
    found: list[FoundChange] = []

    async def handle(change: FoundChange) -> None:
        found.append(change)

    reader = ChangeReader(handle)
    for start in range(0, len(data), size):
        await reader.feed(data[start : start + size])
    return found, reader


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_changes_come_through_in_pieces_of_any_size(size: int) -> None:
    data = b"".join(part for change in CHANGES for part in encode_change(change)) + b'{"done": true}\n'
    found, reader = await read(data, size)
    assert found == CHANGES
    assert reader.is_done


async def test_without_contents_the_states_come_through() -> None:
    found, _ = await read(b"".join(encode_change(CHANGES[0], with_contents=False)), 100)
    assert (found[0].after, found[0].contents) == (CHANGES[0].after, {})


def message(**other: Any) -> dict[str, Any]:
    right = {"path": "a", "before": None, "after": state_fields(state(b"x")), "sizes": [-1, 1], "changed_at": 0}
    return {**right, **other}


@pytest.mark.parametrize(
    "other",
    [
        *({"path": path} for path in ("", "/a", "../a", "a/../b", "a//b", "./a", "a\0b", 5)),
        {"after": {**message()["after"], "sha256": "0" * 64}},
        {"after": {**message()["after"], "sha256": "../../../etc/passwd"}},
        {"after": {**message()["after"], "kind": "socket"}},
        {"after": {**message()["after"], "size": "many"}},
        {"after": {**message()["after"], "identity": "x" * 200}},
        {"after": "something"},
        {"sizes": [-1, 1 << 30]},
        {"sizes": [-1]},
        {"sizes": None},
        {"changed_at": "yesterday"},
    ],
)
async def test_what_is_not_right_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(SandboxError, match="unreadable"):
        await read(json.dumps(message(**other)).encode() + b"\nx", 1000)


@pytest.mark.parametrize("data", [b"x" * 100_000, b"[" * 60_000 + b"\n", b"not json\n", b"[]\n", b'"a"\n', b"5\n"])
async def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(SandboxError, match="unreadable"):
        await read(data, 1000)


def test_a_state_comes_through_and_another_is_refused() -> None:
    assert state_in(state_fields(state(b"x"))) == state(b"x")
    assert state_in(None) is None
    with pytest.raises(ValueError, match="no file has"):
        state_in({"kind": "file"})
