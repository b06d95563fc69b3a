"""Small disks, and services."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.running import start, start_process

__all__ = ["start", "start_process"]


class _Unmounting:
    """Unmounts a path in the end, also when the tests are killed: its input ends then."""

    def __init__(self, path: Path) -> None:
        script = 'cat; umount --lazy "$1" 2>/dev/null; true'
        arguments = ["sh", "-c", script, "sh", str(path)]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, start_new_session=True)

    def now(self) -> None:
        """Unmounts it, if it is mounted."""
        self._process.communicate()


class SmallDisk:
    """A file system of its own, which can be full, read-only, and both no longer."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        path.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "none", str(path))
        self._unmounting = _Unmounting(path)

    def fill(self) -> None:
        """Takes all the room that is left."""
        with (self.path / "filler").open("ab", buffering=0) as file:
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
        self._unmounting.now()


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


class BreakableDisk:
    """An ext4 file system in a file, which can be made to find an error, and be read-only from then on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._image = path.with_suffix(".img")
        with self._image.open("wb") as file:
            file.truncate(16 * 1024 * 1024)
        _run("mkfs.ext4", "-q", str(self._image))
        path.mkdir()
        self._mount()
        self._unmounting = _Unmounting(path)

    def break_down(self) -> None:
        """Lets the kernel find an error, from which on it takes no more writes; what was written before is kept."""
        _run("sync", "--file-system", str(self.path))
        listed = subprocess.run(["losetup", "-j", str(self._image)], check=True, capture_output=True, text=True)
        device = Path(listed.stdout.partition(":")[0]).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("a test")

    def repair(self) -> None:
        """Makes it whole, as an operator would. Nobody may have files open in it."""
        _run("umount", str(self.path))
        # A cell of another test may hold the broken mount in its namespace, and a new mount of the image would be that.
        self._image = Path(shutil.copy(self._image, self._image.with_suffix(".repaired")))
        subprocess.run(["e2fsck", "-p", str(self._image)], check=False, capture_output=True)
        self._mount()

    def remove(self) -> None:
        """Unmounts it, if it is mounted."""
        self._unmounting.now()

    def _mount(self) -> None:
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.path))


@pytest.fixture
def breakable_disk(tmp_path: Path) -> Iterator[BreakableDisk]:
    """A disk below the test's directory that can break; skips where there can be none."""
    path = tmp_path / "disk"
    try:
        disk = BreakableDisk(path)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no ext4 can be mounted from a file here: {error}")
    yield disk
    disk.remove()


def _run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)
