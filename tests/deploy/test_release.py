"""A release sets the version and dates the changelog, or says what is in the way."""

import importlib.util
import tomllib
from pathlib import Path

import pytest

from runner_service.version import VERSION

ROOT = Path(__file__).parents[2]

_spec = importlib.util.spec_from_file_location("release", ROOT / "deploy" / "release.py")
assert _spec
assert _spec.loader
release = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(release)

CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- One.\n\n## [0.1.0] - 2026-01-01\n\n- Zero.\n"


def test_unreleased_entries_go_under_the_version_with_its_date() -> None:
    assert release.with_release(CHANGELOG, "0.2.0", "2026-11-28") == (
        "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-11-28\n\n### Added\n\n- One.\n\n"
        "## [0.1.0] - 2026-01-01\n\n- Zero.\n"
    )


def test_only_the_version_of_the_project_changes() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    changed = release.with_version(project, "99.0.0")
    differing = [(old, new) for old, new in zip(project.splitlines(), changed.splitlines(), strict=True) if old != new]
    assert [new for _, new in differing] == ['version = "99.0.0"']


def test_the_code_has_the_version_of_the_project_and_gets_the_next_one_with_it() -> None:
    code = (ROOT / "src/runner_service/version.py").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    assert 'VERSION = "99.0.0"' in release.with_version(code, "99.0.0").splitlines()


@pytest.mark.parametrize("version", ["", "1", "v1.2.3", "1.2.3; rm -rf /", "0.1.0"])
def test_what_is_no_new_version_is_refused(version: str) -> None:
    with pytest.raises(release.ReleaseError, match=r"VERSION=|already"):
        release.with_version('version = "0.1.0"\n', version)


@pytest.mark.parametrize(
    "changelog", ["# Changelog\n", "## [Unreleased]\n\n## [0.1.0] - x\n\n- Zero.\n", CHANGELOG + "\n## [0.2.0]\n"]
)
def test_a_changelog_without_anything_new_is_refused(changelog: str) -> None:
    with pytest.raises(release.ReleaseError, match=r"CHANGELOG\.md has"):
        release.with_release(changelog, "0.2.0", "2026-11-28")
