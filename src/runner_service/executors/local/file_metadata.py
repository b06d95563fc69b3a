"""Copies what a file is besides its content. All functions block on the file system."""

import errno
import os
import stat
import sys
from contextlib import suppress

from runner_service.executors.local.paths import Place


def copy_metadata(place: Place, old: os.stat_result, descriptor: int) -> bool:
    """Copies owner, mode, ACL and extended attributes of the old file; returns False if some cannot be."""
    new = os.fstat(descriptor)
    try:
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            os.fchown(descriptor, old.st_uid, old.st_gid)
        _copy_attributes(place, descriptor)
    except OSError:
        return False
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    return True


def _copy_attributes(place: Place, descriptor: int) -> None:
    if sys.platform != "linux":
        return
    source = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.directory)
    try:
        for name in _attributes(source):
            value = os.getxattr(source, name)
            with suppress(OSError):
                if os.getxattr(descriptor, name) == value:
                    continue
            os.setxattr(descriptor, name, value)
    finally:
        os.close(source)


def _attributes(descriptor: int) -> list[str]:
    if sys.platform != "linux":
        return []
    try:
        return os.listxattr(descriptor)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise
