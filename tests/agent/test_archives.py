"""What a ZIP that others have made can do to us: nothing."""

import io
import stat
import zipfile

import pytest
from tests.agent.capabilities import zip_archive

from runner_service.agent.archives import ArchiveError, unpack_zip


def test_plain_files_come_out_with_what_makes_them_executable() -> None:
    files = zip_archive(
        {"a.txt": b"a", "bin/b": b"b", "c.sh": b"#!/bin/sh\n", "ä ö/ü.md": b"u"}, modes={"bin/b": 0o100755}
    )

    found = {file.path: (file.data, file.executable) for file in unpack_zip(files)}

    assert found == {
        "a.txt": (b"a", False),
        "bin/b": (b"b", True),
        "c.sh": (b"#!/bin/sh\n", True),
        "ä ö/ü.md": (b"u", False),
    }


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:/x", "..\\x", "a\\b", "x\ny", "a/\x01b", "x" * 600])
def test_an_entry_that_could_land_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ArchiveError):
        unpack_zip(zip_archive({name: b"x"}))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(kind: int) -> None:
    with pytest.raises(ArchiveError, match="is a link or a device"):
        unpack_zip(zip_archive({"x": b"/etc/passwd"}, modes={"x": kind | 0o777}))


def test_a_bomb_is_refused_before_it_has_grown() -> None:
    bomb = zip_archive({"x": bytes(3_000_000)})
    assert len(bomb) < 10_000

    with pytest.raises(ArchiveError, match="more than 1,000,000 bytes"):
        unpack_zip(bomb, max_bytes=1_000_000)


def test_many_files_together_may_not_be_larger_either() -> None:
    with pytest.raises(ArchiveError, match="more than 2,500 bytes"):
        unpack_zip(zip_archive({str(number): bytes(1000) for number in range(3)}), max_bytes=2_500)


def test_too_many_files_are_refused() -> None:
    with pytest.raises(ArchiveError, match="it has 3 files"):
        unpack_zip(zip_archive({str(number): b"" for number in range(3)}), max_files=2)


@pytest.mark.parametrize("data", [b"", b"no zip", zip_archive({"x": b"y" * 100})[:-30]])
def test_what_is_no_zip_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError):
        unpack_zip(data)


def test_an_entry_that_is_broken_or_encrypted_is_refused() -> None:
    whole = bytearray(zip_archive({"x": b"y" * 1000}))
    whole[35] ^= 0xFF
    with pytest.raises(ArchiveError):
        unpack_zip(bytes(whole))

    encrypted = io.BytesIO(zip_archive({"x": b"y"}))
    with zipfile.ZipFile(encrypted) as opened:
        flags = opened.infolist()[0].header_offset + 6
    data = bytearray(encrypted.getvalue())
    data[flags] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ArchiveError):
        unpack_zip(bytes(data))
