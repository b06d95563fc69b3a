"""What a command writes into the scanner's pipe, beside the scanner, gets nowhere and is bounded."""

import hashlib
import json

import pytest

from runner_service.executors.local.scan_messages import ScanMessages
from runner_service.executors.protocol import SandboxError
from runner_service.executors.tracking import FoundChange

DATA = b"new"
DIGEST = hashlib.sha256(DATA).hexdigest()
GOOD = {"kind": "file", "size": 3, "sha256": DIGEST, "identity": ""}
HOSTILE: dict[str, dict[str, object]] = {
    "a path above": {"path": "../file"},
    "a path above, later": {"path": "a/../../file"},
    "an absolute path": {"path": "/etc/file"},
    "a path that is none": {"path": 3},
    "a NUL": {"path": "a\0b"},
    "a digest that leads elsewhere": {"after": GOOD | {"sha256": "../../../outside"}},
    "the digest of something else": {"after": GOOD | {"sha256": "0" * 64}},
    "a digest without a content": {"sizes": [-1, -1]},
    "a content that is announced to be huge": {"sizes": [-1, 10**12]},
    "a content of less than nothing": {"sizes": [-1, -5]},
    "a content for nothing": {"after": None},
    "three sizes": {"sizes": [-1, 3, 3]},
    "a kind that is none": {"after": GOOD | {"kind": "device"}},
    "a long identity": {"after": GOOD | {"identity": "x" * 10_000}},
    "a state that is a list": {"after": []},
    "a time that is none": {"changed_at": "later"},
}


async def changes_of(*lines: bytes) -> list[FoundChange]:
    found: list[FoundChange] = []

    async def handle(change: FoundChange) -> None:
        found.append(change)

    messages = ScanMessages(handle)
    for line in lines:
        await messages.write("stdout", line)
    return found


def message(**fields: object) -> bytes:
    whole = {"path": "file", "before": None, "after": GOOD, "sizes": [-1, 3], "changed_at": 1.5} | fields
    return json.dumps(whole).encode() + b"\n" + DATA


async def test_a_change_is_passed_on_however_it_is_cut() -> None:
    whole = message()
    for end in range(1, len(whole)):
        (change,) = await changes_of(whole[:end], whole[end:])
        assert (change.path, change.contents) == ("file", {DIGEST: DATA})


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_no_scanner_says_is_an_error(name: str) -> None:
    with pytest.raises(SandboxError, match="unreadable"):
        await changes_of(message(**HOSTILE[name]))


@pytest.mark.parametrize("line", [b"{\n", b"[]\n", b"3\n", b"[" * 50_000 + b"\n", b"\xff\n", b"x" * 70_000])
async def test_what_is_no_message_is_an_error(line: bytes) -> None:
    with pytest.raises(SandboxError, match="unreadable"):
        await changes_of(line)


@pytest.mark.parametrize("path", [".git/hooks/post-commit", "sub/.git/config"])
async def test_what_git_acts_on_is_never_a_change_that_could_be_taken_back(path: str) -> None:
    assert await changes_of(message(path=path)) == []


async def test_changes_without_end_are_an_error() -> None:
    with pytest.raises(SandboxError, match="unreadable"):
        await changes_of(*[message()] * 20_001)
