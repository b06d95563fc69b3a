"""Builds the archive installed in a sandbox: the attendant and the local executor, named by content hash."""

import ast
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Lock

_PACKAGE = Path(__file__).parents[2]
_BUILDING = Lock()
_ROOTS = ("attendant", "local", "supervisor")
"""The packages below `executors` that run in a sandbox; what they import goes along."""

_RELAY = _PACKAGE / "executors" / "attendant" / "relay.py"
WIRE = "runner-service-2"
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


def bundle() -> Bundle:
    """Builds the archive once. Blocks on the file system."""
    with _BUILDING:  # Python 3.11 cannot parse in several threads at once
        return _built()


@cache
def _built() -> Bundle:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as into:
        _put(into, "relay.py", _RELAY)
        for path in sorted(_sources()):
            _put(into, f"code/{_PACKAGE.name}/{path.relative_to(_PACKAGE)}", path)
    data = archive.getvalue()
    return Bundle(f"{WIRE}-{hashlib.sha256(data).hexdigest()[:16]}", data)


def _sources() -> set[Path]:
    """Returns the files of the packages that run in a sandbox, and of all that they import of ours."""
    found: set[Path] = set()
    to_read = [path for root in _ROOTS for path in (_PACKAGE / "executors" / root).rglob("*.py")]
    while to_read:
        path = to_read.pop()
        if path not in found:
            found.add(path)
            to_read += [*_packages_of(path), *_imported_by(path)]
    return found


def _packages_of(path: Path) -> Iterator[Path]:
    """Yields what makes the packages of `executors`; others hold one module of theirs, without what they begin with."""
    for directory in path.parents:
        if directory == _PACKAGE or directory.is_relative_to(_PACKAGE / "executors"):
            yield directory / "__init__.py"


def _imported_by(path: Path) -> Iterator[Path]:
    for node in ast.walk(_RuntimeOnly().visit(ast.parse(path.read_bytes()))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from _files_of(node.module)
            for alias in node.names:
                yield from _files_of(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(alias.name)


def _files_of(module: str) -> Iterator[Path]:
    top, *parts = module.split(".")
    if top == _PACKAGE.name:
        place = _PACKAGE.joinpath(*parts)
        yield from (path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file())


class _RuntimeOnly(ast.NodeTransformer):
    """Drops what is imported for type checkers only."""

    def visit_If(self, node: ast.If) -> ast.AST | None:  # the name is ast's
        is_for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if is_for_types else self.generic_visit(node)


def _put(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, path.read_bytes())
