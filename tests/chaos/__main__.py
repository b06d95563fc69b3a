"""Long chaos run: `python -m tests.chaos [RUNS=500] [SEED=…]`. The state directory is replaced every 50 kills."""

import asyncio
import random
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests.chaos.storm import storm
from tests.forking import ForkServer

_KILLS_PER_STATE = 50


def main(arguments: list[str]) -> None:
    """Runs storms one after another, each with its own seed, which is printed first."""
    given = dict(each.split("=", 1) for each in arguments)
    kills = int(given.get("RUNS", 500))
    seed = int(given.get("SEED", random.randrange(1_000_000)))
    while kills > 0:
        print(f"SEED={seed} RUNS={min(kills, _KILLS_PER_STATE)}", flush=True)
        with tempfile.TemporaryDirectory(prefix="storm-") as directory, closing(ForkServer("service")) as fork_server:
            report = asyncio.run(storm(Path(directory), fork_server, seed=seed, kills=min(kills, _KILLS_PER_STATE)))
            print(report, flush=True)
        kills -= _KILLS_PER_STATE
        seed += 1


main(sys.argv[1:])
