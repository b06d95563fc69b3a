"""What is sent to a box: the attendant and the local executor that it works with, as one archive known by its hash."""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[2]
_SENT = ("__init__.py", "executors/*.py", "executors/attendant/*.py", "supervisor/*.py")
_CALLER = _PACKAGE / "executors" / "attendant" / "caller.py"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Bundle:
    """A zip archive, and a name for it that changes with its content."""

    name: str
    data: bytes


@cache
def bundle() -> Bundle:
    """Reads the files of this package, once. Blocks on the file system."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as into:
        _put(into, "caller.py", _CALLER)
        for pattern in _SENT:
            for path in sorted(_PACKAGE.glob(pattern)):
                _put(into, f"code/{_PACKAGE.name}/{path.relative_to(_PACKAGE)}", path)
    data = archive.getvalue()
    return Bundle(f"runner-service-{hashlib.sha256(data).hexdigest()[:16]}", data)


def _put(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, path.read_bytes())
