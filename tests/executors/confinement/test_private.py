"""Private directories: whose they are, and when they go."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner_service.executors.local.confinement.private import BEYOND_MEASURE, PrivateStore


def store(base: Path, *, max_age_seconds: float = 1000, max_bytes: int = 1 << 30) -> PrivateStore:
    return PrivateStore(base, max_age_seconds=max_age_seconds, max_bytes=max_bytes)


def names(base: Path) -> set[str]:
    return {each.name for each in (base / "private").iterdir()}


def filled(found: PrivateStore, name: str, size: int) -> None:
    (Path(found.acquire(name).cache) / "file").write_bytes(os.urandom(size))


def test_many_come_and_go_at_once(tmp_path: Path) -> None:
    found = store(tmp_path)
    found._next_prune = 0.0

    def live(number: int) -> None:
        for _ in range(20):
            found.acquire(f"e{number}")
            found.prune()
            found.release(f"e{number}", keep=False)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(live, range(8)))
    assert names(tmp_path) == set()


def test_what_is_old_goes_unless_it_is_in_use(tmp_path: Path) -> None:
    found = store(tmp_path, max_age_seconds=10)
    for name in ("old", "old-in-use", "new"):
        filled(found, name, 10)
    for name in ("old", "new"):
        found.release(name, keep=True)
    for name in ("old", "old-in-use"):
        os.utime(tmp_path / "private" / name, (0, time.time() - 100))
    found.prune()
    assert names(tmp_path) == {"old-in-use", "new"}


@pytest.mark.parametrize("kept", [1, 2])
def test_the_least_recently_used_goes_first_while_there_is_too_much(tmp_path: Path, kept: int) -> None:
    found = store(tmp_path, max_bytes=kept * 100_000 + 50_000)
    for age, name in enumerate(("c", "b", "a")):
        filled(found, name, 100_000)
        found.release(name, keep=True)
        os.utime(tmp_path / "private" / name, (0, time.time() - 100 + age))
    found.prune()
    assert names(tmp_path) == {"a", "b", "c"} - ({"c"} if kept == 2 else {"b", "c"})


def nest(directory: str, depth: int, size: int) -> None:
    """Makes directories in each other, and a file in the last."""
    current = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=current)
        below = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    file = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=current)
    os.write(file, os.urandom(size))
    os.close(file)
    os.close(current)


def test_what_is_nested_too_deep_to_be_measured_exceeds_every_bound_and_goes(tmp_path: Path) -> None:
    found = store(tmp_path)
    nest(found.acquire("deep").temporary, 1200, 100_000)
    assert found.size_of("deep") == BEYOND_MEASURE
    found.release("deep", keep=True)
    found.prune()
    assert names(tmp_path) == set()


def test_what_is_nested_deep_is_measured(tmp_path: Path) -> None:
    found = store(tmp_path)
    nest(found.acquire("deep").temporary, 450, 100_000)
    assert 100_000 <= found.size_of("deep") < 200_000
    found.release("deep", keep=False)
    assert names(tmp_path) == set()


def test_a_session_that_has_closed_its_directories_finds_them_open_again(tmp_path: Path) -> None:
    found = store(tmp_path)
    for directory in (given := found.acquire("session")).temporary, given.cache:
        Path(directory).chmod(0)
    found.release("session", keep=True)
    again = found.acquire("session")
    assert again == given
    assert oct(Path(again.cache).stat().st_mode & 0o7777) == "0o700"
    assert oct(Path(again.temporary).stat().st_mode & 0o7777) == "0o1777"
