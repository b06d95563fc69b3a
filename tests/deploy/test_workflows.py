"""What CI, the hooks and the documentation run exists."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner_service.cli import commands

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps(workflow: Any) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_step_of_a_workflow_runs_a_target_or_a_program_that_is_there(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    runs = [step["run"] for step in steps(workflow) if "run" in step]
    assert runs
    for run in runs:
        program, *arguments = run.split()
        if program == "make":
            assert arguments[0] in TARGETS, run
        else:
            assert shutil.which(ROOT / program), run


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_says_when_it_runs_and_may_write_nothing(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow[True]  # YAML reads the key `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] for job in workflow["jobs"].values())
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in steps(workflow) if "uses" in step)


def test_the_tests_run_with_every_python_that_is_supported() -> None:
    versions = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    assert versions == {"python": ["3.11", "3.12", "3.13", "3.14"]}


def test_each_hook_runs_a_program_that_the_development_environment_has() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    for hook in hooks:
        program = hook["entry"].split()[0]
        assert program.startswith(".venv/bin/")
        # Hooks are given names of files, and ruff leaves out none that it is given.
        assert not program.endswith("ruff") or "--force-exclude" in hook["entry"]
        assert shutil.which(ROOT / program), hook


@pytest.mark.parametrize("name", ["SECURITY.md", "CONTRIBUTING.md", ".github/ISSUE_TEMPLATE/bug.yml"])
def test_each_command_that_contributors_are_asked_to_run_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    assert set(re.findall(r"`runner-service ([a-z]+)", text)) <= commands.commands.keys()
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= TARGETS


def test_ci_runs_the_checks_and_each_test_once() -> None:
    runs = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    assert runs == ["make check", 'make test ARGS="${ARGS:-}"', 'make test-long ARGS="${ARGS:-}"']
