"""Package managers under the level `proxy`: they find the proxy by themselves, and keep their caches in the session's.

The registries are stand-ins on this machine, at an address that is no loopback, for which go never uses a proxy.
"""

import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
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
"$python" -m pip install -q --no-deps --target out --index-url @URL@/simple/ --trusted-host @HOST@ demo &&
cat out/demo.py
"""
TOOLS = {
    "curl": "curl -sf @URL@/npm/demo",
    "wget": "wget -q -O - @URL@/npm/demo",
    "git": "git clone -q @URL@/demo.git clone && git -C clone log --oneline | grep first",
    "pip": PIP,
    "npm": 'npm install --silent --no-audit --no-fund --registry @URL@/npm/ demo && [ -d "$npm_config_cache"/_cacache ]'
    " && cat node_modules/demo/package.json",
    "cargo": CARGO,
    "go": GO,
    "node": """node -e 'fetch("@URL@/npm/demo").then(r => r.text()).then(console.log)'""",
}
PROGRAMS = {"pip": "python3"}


def works(name: str) -> bool:
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


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    files = tmp_path / "registries"
    files.mkdir()
    host = address_of_this_machine()
    with served(files) as port:
        make_registries(files, f"http://{host}:{port}")
        yield f"{host}:{port}"


@pytest.fixture
async def sandbox(registry: str, tmp_path: Path) -> AsyncIterator[Sandbox]:
    hosts = parse_hosts([registry])
    level = Confinement(files="workspace", network="proxy", allowed_hosts=hosts)
    async with opened_locally(tmp_path) as executor:
        egress = EgressPolicy(hosts, lambda *_: None)
        async with executor.open(SandboxSpec("e", "session", confinement=level, egress=egress)) as opened:
            yield opened


@pytest.mark.parametrize("name", TOOLS)
async def test_a_package_manager_works_through_the_proxy(sandbox: Sandbox, registry: str, name: str) -> None:
    if not works(name):
        pytest.skip(f"{name} is not installed, or too old")
    script = TOOLS[name].replace("@URL@", f"http://{registry}").replace("@HOST@", registry.partition(":")[0])
    result, stdout, stderr = await run(sandbox, script, 60)
    assert result.exit_code == 0, stdout + stderr
    assert b"demo" in stdout or b"hello" in stdout or b"first" in stdout
