"""Package managers under the level `proxy`: they find the proxy by themselves, and keep their caches in the session's.

The registries are stand-ins on this machine, at an address that is no loopback, for which go never uses a proxy.
"""

import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme
from tests.executors.confinement.registries import make_registries, served
from tests.executors.conftest import opened_locally
from tests.executors.recorder import run

from runner_service.allowed_hosts import parse_hosts
from runner_service.executors.confinement import Confinement
from runner_service.executors.egress.policy import EgressPolicy
from runner_service.executors.protocol import Sandbox, SandboxSpec

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

CARGO = """
mkdir -p src .cargo; touch src/lib.rs
printf '[package]\\nname="own"\\nversion="0.1.0"\\nedition="2021"\\n[dependencies]\\ndemo="0.1.0"\\n' > Cargo.toml
printf '[source.crates-io]\\nreplace-with="here"\\n' > .cargo/config.toml
printf '[source.here]\\nregistry="sparse+@URL@/index/"\\n' >> .cargo/config.toml
cargo fetch --quiet && ls "$CARGO_HOME"/registry/cache/*/demo-0.1.0.crate
"""
GO = """
GOPROXY=@URL@/go GOSUMDB=off GONOSUMDB='*' GOFLAGS=-modcacherw go mod download -x demo.example/demo@v0.1.0 &&
ls "$GOPATH"/pkg/mod/demo.example/demo@v0.1.0/demo.go
"""
PIP = """
python=$(python3 -c 'import sys; print(sys.executable)')  # no wrapper of it, such as pyenv's
"$python" -m pip install -q --no-deps --target out --index-url @URL@/simple/ @TRUSTED@ demo &&
cat out/demo.py
"""
UV = """
@UV@ pip install -q --python "$(command -v python3)" --no-deps --target out --index-url @URL@/simple/ demo &&
[ -d "$UV_CACHE_DIR" ] && cat out/demo.py
"""
TOOLS = {
    "curl": "curl -sf @URL@/npm/demo",
    "wget": 'wget -q ${SSL_CERT_FILE:+--ca-certificate="$SSL_CERT_FILE"} -O - @URL@/npm/demo',
    "git": "git clone -q @URL@/demo.git clone && git -C clone log --oneline | grep first",
    "pip": PIP,
    "uv": UV,
    "npm": 'npm install --silent --no-audit --no-fund --registry @URL@/npm/ demo && [ -d "$npm_config_cache"/_cacache ]'
    " && cat node_modules/demo/package.json",
    "cargo": CARGO,
    "go": GO,
    "node": """node -e 'fetch("@URL@/npm/demo").then(r => r.text()).then(console.log)'""",
}
PROGRAMS = {"pip": "python3"}
UV_PATH = Path(sys.executable).with_name("uv")
AUTHORITY_VARIABLES = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "npm_config_cafile",
    "CARGO_HTTP_CAINFO",
    "NODE_EXTRA_CA_CERTS",
)
"""By which the tools are told whom to trust."""


def works(name: str) -> bool:
    if name == "uv":
        return UV_PATH.exists()
    program = shutil.which(PROGRAMS.get(name, name))
    if program is None:
        return False
    if name == "node":  # older ones do not know NODE_USE_ENV_PROXY
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        return int(said.lstrip("v").partition(".")[0] or 0) >= 24
    arguments = ["-m", "pip"] if name == "pip" else []
    return subprocess.run([program, *arguments, "--version"], capture_output=True, check=False).returncode in {0, 2}


def address_of_this_machine() -> str:
    """Returns the address that others would be reached from, without asking anybody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but its loopback")
        return str(probe.getsockname()[0])


@pytest.fixture(params=["http", "https"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Returns the URL of the registries."""
    files = tmp_path / "registries"
    files.mkdir()
    host = address_of_this_machine()
    with served(files, tls_for(host, tmp_path) if request.param == "https" else None) as port:
        url = f"{request.param}://{host}:{port}"
        make_registries(files, url)
        yield url


def tls_for(host: str, directory: Path) -> ssl.SSLContext:
    """Returns the server's side for an address; who is to be trusted is in `authority.pem`, in the root."""
    authority = trustme.CA()
    (directory / "root").mkdir()
    authority.cert_pem.write_to_path(str(directory / "root" / "authority.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host, "localhost").configure_cert(context)  # which npm takes for an address behind a proxy
    return context


@pytest.fixture
async def sandbox(registry: str, tmp_path: Path) -> AsyncIterator[Sandbox]:
    hosts = parse_hosts([registry.partition("//")[2]])
    readable = (str(UV_PATH.resolve()),) if UV_PATH.exists() else ()  # it may lie below /tmp
    level = Confinement(files="workspace", network="proxy", allowed_hosts=hosts, readable_paths=readable)
    trusted = dict.fromkeys(AUTHORITY_VARIABLES, str(tmp_path / "root" / "authority.pem"))
    async with opened_locally(tmp_path) as executor:
        egress = EgressPolicy(hosts, lambda *_: None)
        environment = trusted if registry.startswith("https") else {}
        spec = SandboxSpec("e", "session", confinement=level, egress=egress, environment=environment)
        async with executor.open(spec) as opened:
            yield opened


@pytest.mark.parametrize("name", TOOLS)
async def test_a_package_manager_works_through_the_proxy(sandbox: Sandbox, registry: str, name: str) -> None:
    if not works(name):
        pytest.skip(f"{name} is not installed, or too old")
    host = registry.partition("//")[2].partition(":")[0]
    trusted = "" if registry.startswith("https") else f"--trusted-host {host}"
    script = TOOLS[name].replace("@URL@", registry).replace("@TRUSTED@", trusted)
    result, stdout, stderr = await run(sandbox, script.replace("@UV@", str(UV_PATH.resolve())), 60)
    assert result.exit_code == 0, stdout + stderr
    assert b"demo" in stdout or b"hello" in stdout or b"first" in stdout
