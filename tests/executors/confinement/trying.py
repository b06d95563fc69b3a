"""Runs the escapes, as this user or as an ordinary one, with or without a cell. As a module: records what came of it.

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

from tests.executors.local.test_local_executor import ORDINARY_USER, python_for_all

PROGRAM = Path(__file__).with_name("escape_program.py")
ROOT = Path(__file__).parents[3]
RECORD = ROOT / "docs" / "escapes.json"
_UID = 65534
_TIMEOUT_SECONDS = 200


async def outcomes_of(*, as_ordinary_user: bool, with_cell: bool = True) -> dict[str, bool]:
    """Tries every escape in a place of its own; returns by name which of them got out."""
    directory = Path(tempfile.mkdtemp(prefix="escapes-", dir="/var/tmp"))
    command = [sys.executable, str(PROGRAM), str(directory)]
    if as_ordinary_user:
        os.chown(directory, _UID, _UID)
        command = [*ORDINARY_USER, python_for_all(), *command[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    try:
        process = await asyncio.create_subprocess_exec(
            *command, *([] if with_cell else ["control"]), stdout=asyncio.subprocess.PIPE, env=environment
        )
        said, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_SECONDS)
    finally:
        shutil.rmtree(directory)
    outcomes: dict[str, bool] = json.loads(said.decode().splitlines()[-1])
    return outcomes


async def main() -> None:
    version = await asyncio.to_thread(subprocess.check_output, ["bwrap", "--version"], text=True)
    record = {
        "machine": f"Linux {platform.release().partition('-')[0]}, {version.strip()}",
        "root": await outcomes_of(as_ordinary_user=False),
        "user": await outcomes_of(as_ordinary_user=True),
        "control": await outcomes_of(as_ordinary_user=True, with_cell=False),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
