"""Long storm around Temporal: `python -m tests.temporal [RUNS=300] [SEED=…]`. The state is replaced every 50 kills."""

import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.temporal.server import PROGRAM
from tests.temporal.storm import storm

_KILLS_PER_STATE = 50


def main(arguments: list[str]) -> None:
    """Runs storms one after another, each with its own seed, which is printed first."""
    if not PROGRAM:
        print("skipped: needs requirements/temporal-server.txt, a Temporal dev server")
        return
    given = dict(each.split("=", 1) for each in arguments)
    kills = int(given.get("RUNS", 300))
    seed = int(given.get("SEED", random.randrange(1_000_000)))
    while kills > 0:
        print(f"SEED={seed} RUNS={min(kills, _KILLS_PER_STATE)}", flush=True)
        with tempfile.TemporaryDirectory(prefix="temporal-storm-") as directory:
            print(asyncio.run(storm(Path(directory), seed=seed, kills=min(kills, _KILLS_PER_STATE))), flush=True)
        kills -= _KILLS_PER_STATE
        seed += 1


main(sys.argv[1:])
