"""The line that tells a model which wall its command ran into."""

import pytest

from runner_service.agent.tools.confinement_hint import confinement_hint
from runner_service.allowed_hosts import parse_hosts
from runner_service.executors.confinement import Confinement

WORKSPACE = Confinement(files="workspace")
ROOT = "/work/root"


@pytest.mark.parametrize(
    "output",
    [
        "touch: cannot touch '/etc/x': Read-only file system",
        "bash: line 1: /etc/x: Read-only file system",
        "bash: line 1: /etc/x: Permission denied",
        "PermissionError: [Errno 13] Permission denied: '/etc/x'",
        "Error: EACCES: permission denied, open '/etc/x'",
        "OSError: [Errno 30] Read-only file system: '/etc/x'",
        "mkdir: cannot create directory ‘/etc/x’: Read-only file system",
        "open /etc/x: read-only file system",  # Go
    ],
)
def test_a_path_outside_that_was_refused_is_named(output: str) -> None:
    hint = confinement_hint(WORKSPACE, ROOT, output)
    assert "/etc/x" in hint
    assert "files: workspace" in hint
    assert ROOT in hint


@pytest.mark.parametrize(
    "output",
    [
        "",
        "all good",
        f"bash: {ROOT}/x: Permission denied",
        "fatal: not a git repository",
        "/etc/x: No such file or directory",
    ],
)
def test_other_failures_have_no_such_line(output: str) -> None:
    assert confinement_hint(WORKSPACE, ROOT, output) == ""


def test_without_confinement_there_is_none() -> None:
    assert confinement_hint(Confinement(), ROOT, "/etc/x: Read-only file system") == ""


def test_the_root_is_named_when_it_is_read_only() -> None:
    output = "bash: line 1: file: Read-only file system"
    assert ROOT in confinement_hint(Confinement(files="read_only"), ROOT, output)


def test_a_host_that_cannot_be_reached_is_told_with_those_that_can() -> None:
    closed = Confinement(files="workspace", network="none")
    assert "no host can be reached" in confinement_hint(closed, ROOT, "curl: (6) Could not resolve host: x")
    some = Confinement(files="workspace", network="proxy", allowed_hosts=parse_hosts(["api.example.com"]))
    assert "only api.example.com" in confinement_hint(
        some, ROOT, "socket.gaierror: Temporary failure in name resolution"
    )
    assert confinement_hint(WORKSPACE, ROOT, "curl: (6) Could not resolve host: x") == ""


def test_output_that_is_made_to_take_long_does_not() -> None:
    assert confinement_hint(WORKSPACE, ROOT, "/" * 200_000 + ": " + "/a" * 100_000) == ""
