"""What a deployment gives to the service and its commands, and what it does not."""

import configparser
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
UNIT = DEPLOY / "runner-service.service"


def service_section() -> dict[str, str]:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    unit.read(UNIT)
    return dict(unit["Service"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_exposed_to_no_more_than_commands_need() -> None:
    analyzed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=25", UNIT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert analyzed.returncode == 0, analyzed.stdout[-300:] + analyzed.stderr


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


def test_the_example_runs_the_image_without_what_it_does_not_need() -> None:
    service: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["runner-service"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == "10001:10001"
    assert service["ulimits"] == {"core": 0}
    assert {"pids_limit", "mem_limit"} <= service.keys()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    writable = {volume.split(":")[-1] for volume in service["volumes"]} | {
        mount.split(":")[0] for mount in service["tmpfs"]
    }
    assert writable == {"/tmp", "/home/runner", "/var/lib/runner-service", "/workspace"}  # in a container


def test_the_image_is_built_from_a_base_that_can_be_pinned_and_runs_as_a_user() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE} AS build", "FROM ${BASE}"]
    assert "USER 10001" in lines
