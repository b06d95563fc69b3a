"""Records which process tags are in use, so that the next start can end what a crash left behind."""

import fcntl
import json
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from runner_service.executors.protocol import SandboxError
from runner_service.executors.supervisor.tags import Span

logger = logging.getLogger(__name__)

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class StateInUseError(SandboxError):
    """Another running process uses the state directory."""


class OrphanRecord:
    """A file in the state directory that holds the zone of tags in use, locked while the service lives.

    A zone is random among 2^26, so a process that carries it was started by the service that recorded it; the boot id
    is recorded too, since processes do not outlive a boot. All methods block on the file system.

    Raises:
        StateInUseError: another running process uses the directory.
        SandboxError: the file cannot be used.
    """

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = state_dir / "supervisor.json"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise StateInUseError(f"{state_dir} is in use by another service; give each its own STATE_DIR") from error
        except OSError as error:
            raise SandboxError(f"{path} cannot be used: {error.strerror}; remove it") from error
        if not _is_private(os.fstat(self._descriptor)):
            os.close(self._descriptor)
            raise SandboxError(f"{path} is no file of this user alone: see who can write there, and remove it")

    def recorded_spans(self) -> Sequence[Span]:
        """Returns the tags last recorded in this boot, those of commands and those of cells."""
        try:
            record = json.loads(os.pread(self._descriptor, 4096, 0))
            if record["boot_id"] != _boot_id():
                return []
            noted = [record["zone"], record.get("cells")]
        except (ValueError, KeyError, TypeError, AttributeError):
            return []
        return [span for each in noted if (span := _valid_span(each))]

    def record(self, zone: Sequence[int] | None, cells: Sequence[int] | None) -> None:
        """Records the tags in use, of commands and of cells; None once nothing is left."""
        text = json.dumps({"boot_id": _boot_id(), "zone": zone, "cells": cells}).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def release(self) -> None:
        """Releases the lock on the directory."""
        os.close(self._descriptor)


def _valid_span(noted: object) -> Span | None:
    try:
        span = Span(*map(int, noted))  # type: ignore[call-overload]  # whatever is in the file
    except (ValueError, TypeError):
        return None
    if not span.is_valid:
        logger.error("orphan_record_ignored reason=%s", "no supervisor has taken such a zone")
        return None
    return span


def _is_private(found: os.stat_result) -> bool:
    mode = found.st_mode
    return (
        stat.S_ISREG(mode) and found.st_uid == os.geteuid() and found.st_nlink == 1 and not mode & _WRITABLE_BY_OTHERS
    )


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else ""
