"""Repositories of a user, made by the real git."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

IDENTITY = ("-c", "user.name=U", "-c", "user.email=u@example.org", "-c", "commit.gpgsign=false")
NO_MAINTENANCE = ("-c", "maintenance.auto=false")  # newer versions do it in the background, after the command


def git(directory: Path, *arguments: str, check: bool = True) -> str:
    """Runs git as the user would."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1"}
    ran = subprocess.run(
        ["git", *IDENTITY, *NO_MAINTENANCE, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=check,
    )
    return ran.stdout


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes files, with their directories."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def repository(directory: Path, files: Mapping[str, bytes]) -> Path:
    """Makes a repository with one commit."""
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init", "-q", "-b", "main")
    write(directory, files)
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "first")
    return directory
