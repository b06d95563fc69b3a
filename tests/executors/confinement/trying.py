"""Runs the escapes, as this user or as an ordinary one, in cells, in restricted threads, or without.

As a module it records what came of it.

Usage: python -m tests.executors.confinement.trying (as root; writes docs/escapes.json, from which the page is made).
"""

import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from tests.executors.local.test_local_executor import ORDINARY_USER, python_for_all

PROGRAM = Path(__file__).with_name("escape_program.py")
ROOT = Path(__file__).parents[3]
RECORD = ROOT / "docs" / "escapes.json"
WITHOUT_NAMESPACES = Path(__file__).with_name("without_namespaces.py")
_UID = 65534
_TIMEOUT_SECONDS = 200


How = Literal["cell", "thread", "control"]


async def outcomes_of(*, as_ordinary_user: bool, how: How = "cell") -> dict[str, bool | None]:
    """Tries every escape in a place of its own; returns by name which of them got out, None for a refused level."""
    directory = Path(tempfile.mkdtemp(prefix="escapes-", dir="/var/tmp"))
    python = python_for_all() if as_ordinary_user else sys.executable
    command = [python, str(PROGRAM), str(directory), *([] if how == "cell" else [how])]
    if how == "thread":
        command = [python, str(WITHOUT_NAMESPACES), *command]
    if as_ordinary_user:
        os.chown(directory, _UID, _UID)
        command = [*ORDINARY_USER, *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    try:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
        said, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_SECONDS)
    finally:
        shutil.rmtree(directory)
    outcomes: dict[str, bool | None] = json.loads(said.decode().splitlines()[-1])
    return outcomes


async def main() -> None:
    version = await asyncio.to_thread(subprocess.check_output, ["bwrap", "--version"], text=True)
    record = {
        "machine": f"Linux {platform.release().partition('-')[0]}, {version.strip()}",
        "root": await outcomes_of(as_ordinary_user=False),
        "user": await outcomes_of(as_ordinary_user=True),
        "thread": await outcomes_of(as_ordinary_user=True, how="thread"),
        "control": await outcomes_of(as_ordinary_user=True, how="control"),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
