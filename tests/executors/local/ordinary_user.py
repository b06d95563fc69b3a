"""Times out a command with escapees, as whoever runs this. Usage: python ordinary_user.py DIRECTORY"""

import asyncio
import os
import sys
from pathlib import Path

from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import SandboxSpec

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.executors.recorder import living, output, run  # needs the path

# What a command sees of the supervisor, and whether it goes first when memory is short.
LOOK = """
head -c 0 /proc/$PPID/environ && echo open || echo closed
echo $(($(cat /proc/self/oom_score_adj) - $(cat /proc/$PPID/oom_score_adj)))
"""


async def main(directory: Path) -> None:
    async with local_executor(root=directory / "root", state_dir=directory / "state", terminate_grace=0.25) as executor:
        print(executor.process_control)
        async with executor.open(SandboxSpec("e")) as sandbox:
            seconds = f"73.{os.getpid()}"  # several tests run this program
            text = f"setsid -f sleep {seconds}; env -i setsid -f sleep {seconds}; sleep {seconds}"
            result, _, _ = await run(sandbox, text, 0.3)
            print(result.exit_code, result.timed_out)
            print(len(await living(sandbox, seconds)), "left")
            print(await output(sandbox, LOOK), end="")


asyncio.run(main(Path(sys.argv[1])))
