"""Small disks, and services."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.running import start, start_process

__all__ = ["start", "start_process"]


class SmallDisk:
    """A file system of its own, which can be full, read-only, and both no longer."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        path.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(path))

    def fill(self) -> None:
        """Takes all the room that is left."""
        with (self.path / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                return

    def make_room(self) -> None:
        """Gives back what `fill` has taken, and much more."""
        self.remount("size=256m")
        (self.path / "filler").unlink(missing_ok=True)

    def remount(self, options: str) -> None:
        """Changes how it is mounted."""
        _run("mount", "-o", f"remount,{options}", str(self.path))

    def remove(self) -> None:
        """Unmounts it."""
        _run("umount", "--lazy", str(self.path))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], SmallDisk]]:
    """Makes small disks below the test's directory; skips where nothing may be mounted."""
    disks: list[SmallDisk] = []

    def make(megabytes: int) -> SmallDisk:
        if shutil.which("mount") is None:
            pytest.skip("there is no mount")
        try:
            disks.append(SmallDisk(tmp_path / f"disk-{len(disks)}", megabytes))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"nothing may be mounted here: {error.stderr.decode().strip()}")
        return disks[-1]

    yield make
    for disk in disks:
        disk.remove()


def _run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)
