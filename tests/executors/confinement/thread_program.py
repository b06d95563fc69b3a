"""Runs commands in a confined execution, and prints as JSON what is in force, or why it is refused, and what they say.

Usage: python thread_program.py DIRECTORY FILES NETWORK COMMAND... (LONG is a command too long for an argument).
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.executors.recorder import run  # needs the path

from runner_service.executors.confinement import Confinement
from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import ConfinementError, SandboxSpec


async def main(directory: Path, files: str, network: str, *commands: str) -> list[str]:
    asked = Confinement(files=files, network=network)  # type: ignore[arg-type]  # levels
    async with local_executor(root=directory / "root", state_dir=directory / "state", terminate_grace=0.25) as executor:
        try:
            found = await executor.confinement_for(asked)
        except ConfinementError as refused:
            return [str(refused)]
        said = [f"{found.files} {found.network} {found.mechanism} {' '.join(found.gaps)}"]
        async with executor.open(SandboxSpec("e", confinement=asked)) as sandbox:
            for command in commands:
                _, stdout, _ = await run(sandbox, command.replace("LONG", "true; " + "#" * 200_000))
                said.append(stdout.decode())
        return said


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1]).resolve(), *sys.argv[2:]))))
