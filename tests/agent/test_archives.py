"""What a ZIP that others have made can do to us: nothing."""

import io
import stat
import zipfile

import pytest
from tests.agent.capabilities import zip_archive

from runner_service.agent.archives import Archive, ArchiveError, Budget, open_archive


async def unpacked(archive: Archive) -> dict[str, tuple[bytes, bool]]:
    return {
        file.path: (b"".join([chunk async for chunk in archive.chunks(file)]), file.executable)
        for file in archive.files
    }


async def test_plain_files_come_out_with_what_makes_them_executable() -> None:
    files = zip_archive(
        {"a.txt": b"a", "bin/b": b"b", "c.sh": b"#!/bin/sh\n", "ä ö/ü.md": b"u"}, modes={"bin/b": 0o100755}
    )

    found = await unpacked(await open_archive(files, Budget()))

    assert found == {
        "a.txt": (b"a", False),
        "bin/b": (b"b", True),
        "c.sh": (b"#!/bin/sh\n", True),
        "ä ö/ü.md": (b"u", False),
    }


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:/x", "..\\x", "a\\b", "x\ny", "a/\x01b", "x" * 600])
async def test_an_entry_that_could_land_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ArchiveError):
        await open_archive(zip_archive({name: b"x"}), Budget())


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
async def test_links_and_devices_are_refused(kind: int) -> None:
    with pytest.raises(ArchiveError, match="is a link or a device"):
        await open_archive(zip_archive({"x": b"/etc/passwd"}, modes={"x": kind | 0o777}), Budget())


async def test_a_bomb_is_refused_before_it_has_grown() -> None:
    bomb = zip_archive({"x": bytes(3_000_000)})
    assert len(bomb) < 10_000

    with pytest.raises(ArchiveError, match="more than 1,000,000 bytes"):
        await open_archive(bomb, Budget(size=1_000_000))


async def test_many_files_together_may_not_be_larger_either() -> None:
    with pytest.raises(ArchiveError, match="more than 2,500 bytes"):
        await open_archive(zip_archive({str(number): bytes(1000) for number in range(3)}), Budget(size=2_500))


async def test_too_many_files_are_refused() -> None:
    with pytest.raises(ArchiveError, match="it has 3 files"):
        await open_archive(zip_archive({str(number): b"" for number in range(3)}), Budget(files=2))


@pytest.mark.parametrize("data", [b"", b"no zip", zip_archive({"x": b"y" * 100})[:-30]])
async def test_what_is_no_zip_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError):
        await open_archive(data, Budget())


async def test_an_entry_that_is_broken_or_encrypted_is_refused() -> None:
    whole = bytearray(zip_archive({"x": b"y" * 1000}))
    whole[35] ^= 0xFF
    with pytest.raises(ArchiveError):
        await open_archive(bytes(whole), Budget())

    encrypted = io.BytesIO(zip_archive({"x": b"y"}))
    with zipfile.ZipFile(encrypted) as opened:
        flags = opened.infolist()[0].header_offset + 6
    data = bytearray(encrypted.getvalue())
    data[flags] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ArchiveError):
        await open_archive(bytes(data), Budget())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
async def test_only_the_methods_whose_ratio_is_bounded_are_unpacked(method: int) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as made:
        made.writestr("zeros", bytes(64 * 1024 * 1024))
    assert len(data.getvalue()) < 20_000
    with pytest.raises(ArchiveError, match="another method than deflate"):
        await open_archive(data.getvalue(), Budget())


async def test_a_small_archive_may_not_become_large_whatever_is_left_of_the_budget() -> None:
    with pytest.raises(ArchiveError, match="more than 2,"):
        await open_archive(zip_archive({"zeros": bytes(10 * 1024 * 1024)}), Budget())


async def test_archives_of_a_request_have_one_budget() -> None:
    budget = Budget(files=5, size=10_000)
    await open_archive(zip_archive({"a": bytes(4_000), "b": b""}), budget)
    assert (budget.files, budget.size) == (3, 6_000)
    with pytest.raises(ArchiveError, match="more than 6,000 bytes"):
        await open_archive(zip_archive({"a": bytes(7_000)}), budget)
    with pytest.raises(ArchiveError, match="it has 4 files"):
        await open_archive(zip_archive({str(number): b"" for number in range(4)}), budget)
    assert (budget.files, budget.size) == (3, 6_000)
