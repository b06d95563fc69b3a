"""Builds the archive installed in a sandbox: the attendant and the local executor, named by content hash."""

import hashlib
import io
import zipfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[2]
_PATTERNS = (
    "__init__.py",
    "executors/*.py",
    *(f"executors/{each}/**/*.py" for each in ("attendant", "local", "supervisor")),
    "settings/machine.py",
)
_RELAY = _PACKAGE / "executors" / "attendant" / "relay.py"
WIRE = "runner-service-1"
"""Protocol version; prefix of the names of all bundles that understand the same requests."""

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Bundle:
    """A zip archive and its content-derived name."""

    name: str
    data: bytes

    def for_limits(self, limits: object) -> "Bundle":
        """Returns the bundle under a name specific to `limits`, so that each set of limits has its own attendant."""
        return replace(self, name=f"{self.name}-{hashlib.sha256(repr(limits).encode()).hexdigest()[:8]}")


@cache
def bundle() -> Bundle:
    """Builds the archive once. Blocks on the file system."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as into:
        _put(into, "client.py", _RELAY)
        for pattern in _PATTERNS:
            for path in sorted(_PACKAGE.glob(pattern)):
                _put(into, f"code/{_PACKAGE.name}/{path.relative_to(_PACKAGE)}", path)
    data = archive.getvalue()
    return Bundle(f"{WIRE}-{hashlib.sha256(data).hexdigest()[:16]}", data)


def _put(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, path.read_bytes())
