"""Windows of large files: what lies beside them is counted without being looked at line by line."""

import random
from pathlib import Path

import pytest

from runner_service.executors.local import reading
from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.paths import Root
from runner_service.executors.protocol import TextLines


@pytest.mark.parametrize("seed", range(20))
def test_a_window_is_what_the_lines_say_wherever_blocks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(reading, "_PIECE_BYTES", 3)
    chance = random.Random(seed)
    text = "".join(chance.choice("ab\n") for _ in range(chance.randrange(40)))
    (tmp_path / "f").write_text(text)
    lines = text.split("\n")
    ends = [*(f"{line}\n" for line in lines[:-1]), *([lines[-1]] if lines[-1] else [])]

    for offset in range(len(ends) + 2):
        for limit in range(4):
            needle = ends[offset : offset + limit]
            expected = TextLines("".join(needle), offset + 1 if needle else 0, len(ends))
            assert reading.read_text(Root(str(tmp_path)), "/f", offset, limit, Deadline()) == expected


def test_a_large_file_is_counted_in_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PIECE_BYTES", 64 * 1024)
    (tmp_path / "f").write_bytes(b"\n" * 1_000_000)
    file = reading.open_regular(Root(str(tmp_path)), "/f")
    steps: list[int] = []

    class Counted:
        def read(self, size: int) -> bytes:
            steps.append(size)
            return file.read(size)

        def readline(self, size: int) -> bytes:
            steps.append(size)
            return file.readline(size)

        def seek(self, offset: int, whence: int) -> int:
            return file.seek(offset, whence)

    with file:
        found = reading._window(Counted(), "/f", 500_000, 10, Deadline())  # type: ignore[arg-type]  # as much of a file as it uses
    assert (found.first_line, found.total_lines) == (500_001, 1_000_000)
    assert len(steps) < 100
