"""The note by which a start after a crash finds what the crashed service has left running."""

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path

from runner_service.executors.protocol import SandboxError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Remnants:
    """A file in the state directory that holds the zone of tags in use, locked while the service lives.

    A zone is random among 2^26, so what carries it was started by the service that noted it; the boot is noted too,
    since processes do not outlive it. All methods block on the file system.

    Raises:
        SandboxError: another process, which lives, has the directory.
    """

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(state_dir / "supervisor.json", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise SandboxError(f"{state_dir} is in use by another service; give each its own STATE_DIR") from error

    def zone(self) -> Sequence[int]:
        """Returns the zone that was noted last in this boot, as the bounds of its span; empty when there is none."""
        try:
            noted = json.loads(os.pread(self._descriptor, 4096, 0))
            if noted["boot_id"] != _boot_id():
                return ()
            low, high = noted["zone"]
            return (int(low), int(high))
        except (ValueError, KeyError, TypeError):
            return ()

    def note(self, zone: Sequence[int] | None) -> None:
        """Notes the zone in use, or that nothing is left."""
        text = json.dumps({"boot_id": _boot_id(), "zone": zone}).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def release(self) -> None:
        """Lets another process have the directory."""
        os.close(self._descriptor)


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else ""
