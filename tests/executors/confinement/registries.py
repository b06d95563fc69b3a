"""Stand-ins for the registries of pip, npm, cargo and go, and for a git server: files, served over HTTP or HTTPS.

Each offers one package, `demo` 0.1.0. The directory is made for an address that is known before.
"""

import base64
import hashlib
import io
import json
import ssl
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def make_registries(directory: Path, url: str) -> None:
    """Writes the files of all of them below `directory`, which is served at `url`."""
    _pypi(directory / "simple" / "demo")
    _npm(directory / "npm", url)
    _cargo(directory, url)
    _go(directory / "go" / "demo.example" / "demo" / "@v")
    _git(directory / "demo.git")


@contextmanager
def served(directory: Path, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serves the files of a directory to everybody; gives the port."""
    with ThreadingHTTPServer(("0.0.0.0", 0), partial(_Handler, directory=str(directory))) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            serving.join()


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the base class has it
        """Says nothing."""


def _write(path: Path, content: str | bytes) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def _zip(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _tar(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    return packed.getvalue()


def _pypi(directory: Path) -> None:
    wheel = "demo-0.1.0-py3-none-any.whl"
    about = "demo-0.1.0.dist-info"
    files = {
        "demo.py": "print('hello')",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 0.1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": f"demo.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n",
    }
    _write(directory / wheel, _zip(files))
    _write(directory / "index.html", f'<html><body><a href="{wheel}">{wheel}</a></body></html>')


def _npm(directory: Path, url: str) -> None:
    package = json.dumps({"name": "demo", "version": "0.1.0", "main": "index.js"})
    data = _write(directory / "demo.tgz", _tar({"package/package.json": package, "package/index.js": "1"}))
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    dist = {"tarball": f"{url}/npm/demo.tgz", "integrity": integrity}
    version = {"name": "demo", "version": "0.1.0", "dist": dist}
    _write(
        directory / "demo",
        json.dumps({"name": "demo", "dist-tags": {"latest": "0.1.0"}, "versions": {"0.1.0": version}}),
    )


def _cargo(directory: Path, url: str) -> None:
    manifest = '[package]\nname = "demo"\nversion = "0.1.0"\nedition = "2021"\n'
    crate = _write(
        directory / "crates" / "demo" / "0.1.0" / "download",
        _tar({"demo-0.1.0/Cargo.toml": manifest, "demo-0.1.0/src/lib.rs": ""}),
    )
    _write(directory / "index" / "config.json", json.dumps({"dl": f"{url}/crates"}))
    entry = {"name": "demo", "vers": "0.1.0", "deps": [], "features": {}, "yanked": False}
    entry["cksum"] = hashlib.sha256(crate).hexdigest()
    _write(directory / "index" / "de" / "mo" / "demo", json.dumps(entry) + "\n")


def _go(directory: Path) -> None:
    module = "module demo.example/demo\n"
    _write(directory / "list", "v0.1.0\n")
    _write(directory / "v0.1.0.info", json.dumps({"Version": "v0.1.0"}))
    _write(directory / "v0.1.0.mod", module)
    root = "demo.example/demo@v0.1.0"
    _write(directory / "v0.1.0.zip", _zip({f"{root}/go.mod": module, f"{root}/demo.go": "package demo\n"}))


def _git(directory: Path) -> None:
    work = directory.with_suffix(".work")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (
        ["init", "-q", str(work)],
        ["-C", str(work), "commit", "-q", "--allow-empty", "-m", "first"],
        ["clone", "-q", "--bare", str(work), str(directory)],
        ["-C", str(directory), "update-server-info"],
    ):
        subprocess.run([*git, *command], check=True, capture_output=True)
