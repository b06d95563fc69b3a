"""What a deployment gives to the service and its commands, and what it does not."""

import configparser
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.executors.local.test_local_executor import python_for_all

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
UNIT = DEPLOY / "runner-service.service"
DROP_IN = DEPLOY / "confinement.conf"
THREAD_PROGRAM = DEPLOY.parent / "tests" / "executors" / "confinement" / "thread_program.py"


def service_section(file: Path = UNIT) -> dict[str, str]:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    unit.read(file)
    return dict(unit["Service"])


def merged(directory: Path) -> Path:
    """Returns a unit with what its drop-in for confinement changes."""
    unit = directory / UNIT.name
    unit.write_text(UNIT.read_text().replace("[Install]", f"{DROP_IN.read_text()}\n[Install]"))
    return unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("is_confined", [False, True])
def test_the_unit_is_exposed_to_no_more_than_commands_need(tmp_path: Path, *, is_confined: bool) -> None:
    unit = merged(tmp_path) if is_confined else UNIT
    analyzed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=25", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert analyzed.returncode == 0, analyzed.stdout[-300:] + analyzed.stderr


AS_THE_UNIT = """
mount --make-rprivate /
mount -t proc -o nosuid,nodev,noexec,hidepid=2 proc /proc
mount --bind -o ro /sys/fs/cgroup /sys/fs/cgroup || true
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all \\
    unshare --user --map-user=65534 --map-group=65534 "$@"
"""
"""What ProtectProc, ProtectControlGroups, User, NoNewPrivileges, CapabilityBoundingSet and PrivateUsers do."""


@pytest.mark.skipif(not python_for_all(), reason="needs root, and a Python that all users can run")
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_cell_opens_in_what_the_unit_leaves_when_it_is_confined() -> None:
    section = service_section(UNIT) | service_section(DROP_IN)
    kept = ("ProtectProc", "ProtectControlGroups", "PrivateUsers", "ProtectKernelTunables", "ProtectKernelLogs")
    assert [section[name] for name in kept] == ["invisible", "yes", "yes", "no", "no"]
    directory = Path(tempfile.mkdtemp(prefix="unit-", dir="/var/tmp"))
    try:
        os.chown(directory, 65534, 65534)
        program = [python_for_all(), str(THREAD_PROGRAM), str(directory), "workspace", "none", "echo up"]
        said = subprocess.run(
            ["unshare", "--mount", "sh", "-c", AS_THE_UNIT, "sh", *program],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "PYTHONPATH": str(DEPLOY.parent / "src")},
        ).stdout
    finally:
        shutil.rmtree(directory)
    in_force, output = json.loads(said)
    assert in_force.startswith("workspace none bwrap ")
    assert output == "up\n"


def test_the_unit_bounds_what_commands_use_and_leaves_them_what_they_need() -> None:
    section = service_section()
    for name in ("MemoryMax", "TasksMax"):
        assert section[name] not in {"", "infinity"}
    assert (section["LimitCORE"], section["UMask"], section["NoNewPrivileges"]) == ("0", "0077", "yes")
    # Package managers and git need the network and name services, compilers at run time writable code.
    assert {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"} <= set(section["RestrictAddressFamilies"].split())
    assert {"MemoryDenyWriteExecute", "PrivateNetwork", "NoExecPaths", "RestrictFileSystems"}.isdisjoint(section)
    assert section["ReadWritePaths"].split() == ["/srv/runner-service"]
    assert section["SystemCallFilter"] == "@system-service"


COMPOSED = {
    "compose.local.yaml": {"/tmp", "/home/runner", "/var/lib/runner-service", "/workspace"},  # in a container
    "compose.yaml": {"/tmp", "/home/runner", "/var/lib/runner-service"},
}


@pytest.mark.parametrize("file", COMPOSED)
def test_the_example_runs_the_image_without_what_it_does_not_need(file: str) -> None:
    service: dict[str, Any] = yaml.safe_load((DEPLOY / file).read_text())["services"]["runner-service"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == "10001:10001"
    assert service["ulimits"] == {"core": 0}
    assert {"pids_limit", "mem_limit"} <= service.keys()
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    writable = {volume.split(":")[-1] for volume in service["volumes"]} | {
        mount.split(":")[0] for mount in service["tmpfs"]
    }
    assert writable == COMPOSED[file]


def test_the_image_is_built_from_a_base_that_can_be_pinned_and_runs_as_a_user() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE} AS build", "FROM ${BASE}"]
    assert "USER 10001" in lines
