"""Prepares a release: sets the version, dates the changelog, builds wheel and sdist. `make release VERSION=1.2.3`.

Commit, tag and upload are left to the maintainer, after a look at the diff.
"""

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]

_VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")
_VERSION_LINE = re.compile(r'^(version|VERSION) = "(.*)"$', re.MULTILINE)
_UNRELEASED = "## [Unreleased]\n"


class ReleaseError(Exception):
    """The release cannot be prepared; the message says why."""


def with_version(text: str, version: str) -> str:
    """Returns the text of `pyproject.toml` or `version.py` with another version."""
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"VERSION={version or '…'} must be like 1.2.3 or 1.2.3rc1")
    current = _VERSION_LINE.search(text)
    if current is None or current[2] == version:
        raise ReleaseError(f"pyproject.toml or version.py has no version, or {version} already")
    return _VERSION_LINE.sub(rf'\g<1> = "{version}"', text, count=1)


def with_release(changelog: str, version: str, date: str) -> str:
    """Returns the changelog with its unreleased entries under a version, and an empty section above it."""
    if f"## [{version}]" in changelog:
        raise ReleaseError(f"CHANGELOG.md has {version} already")
    before, found, after = changelog.partition(_UNRELEASED)
    if not found or not after.split("\n## [")[0].strip():
        raise ReleaseError("CHANGELOG.md has nothing below [Unreleased]")
    return f"{before}{_UNRELEASED}\n## [{version}] - {date}\n{after}"


def main(version: str) -> None:
    """Changes the files and builds the distributions into `dist/`."""
    project, changelog = ROOT / "pyproject.toml", ROOT / "CHANGELOG.md"
    code = ROOT / "src/runner_service/version.py"
    today = datetime.now(UTC).date().isoformat()
    changed = {
        project: with_version(project.read_text(), version),
        code: with_version(code.read_text(), version),
        changelog: with_release(changelog.read_text(), version, today),
    }
    for path, text in changed.items():
        path.write_text(text)
    build = [
        str(ROOT / ".venv/bin/uv"),
        "build",
        "-q",
        "--no-build-isolation",
        "--python",
        str(ROOT / ".venv/bin/python"),
    ]
    subprocess.run([*build, "--clear", "--sdist", "--wheel"], cwd=ROOT, check=True)  # noqa: S603  # constants
    print(f"dist/ has {version}. Look at `git diff`, then:")  # this is a script
    print(f"git commit -am 'release: {version}' && git tag -s v{version} && uv publish dist/*")  # as above


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "")
    except ReleaseError as error:
        sys.exit(str(error))
