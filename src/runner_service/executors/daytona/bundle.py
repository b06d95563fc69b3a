"""What is sent to a box: the attendant, and the local executor that it works with, as one archive known by its hash."""

import hashlib
import importlib.util
import io
import zipfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[2]
_SENT = (
    "__init__.py",
    "executors/*.py",
    *(f"executors/{each}/*.py" for each in ("attendant", "local", "supervisor")),
    "settings/machine.py",
)
_CALLER = _PACKAGE / "executors" / "attendant" / "client.py"
WIRE = "runner-service-1"
"""Begins the names of all bundles that understand the same requests; the number grows when they no longer do."""

_LIBRARIES = ("wcmatch", "bracex")
"""What the local executor needs beyond the standard library; plain Python, so any machine can run it."""

_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Bundle:
    """A zip archive, and a name for it that changes with its content."""

    name: str
    data: bytes

    def for_terms(self, terms: object) -> "Bundle":
        """Returns the same under a name of its own for these terms, so that others are another attendant's."""
        return replace(self, name=f"{self.name}-{hashlib.sha256(repr(terms).encode()).hexdigest()[:8]}")


@cache
def bundle() -> Bundle:
    """Reads the files of this package, once. Blocks on the file system."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as into:
        _put(into, "client.py", _CALLER)
        for pattern in _SENT:
            for path in sorted(_PACKAGE.glob(pattern)):
                _put(into, f"code/{_PACKAGE.name}/{path.relative_to(_PACKAGE)}", path)
        for library in map(_directory_of, _LIBRARIES):
            for path in sorted(library.rglob("*.py")):
                _put(into, f"code/{library.name}/{path.relative_to(library)}", path)
    data = archive.getvalue()
    return Bundle(f"{WIRE}-{hashlib.sha256(data).hexdigest()[:16]}", data)


def _directory_of(library: str) -> Path:
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{library} is not installed", name=library)
    return Path(spec.origin).parent


def _put(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, path.read_bytes())
