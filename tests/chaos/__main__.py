"""The long storm: `python -m tests.chaos [RUNS=500] [SEED=…]`. It begins afresh on an empty state every 50 kills."""

import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.storm import storm

_KILLS_AT_ONCE = 50


def main(arguments: list[str]) -> None:
    """Runs storms one after another, each with its own seed, which is printed before it begins."""
    given = dict(each.split("=", 1) for each in arguments)
    kills = int(given.get("RUNS", 500))
    seed = int(given.get("SEED", random.randrange(1_000_000)))
    while kills > 0:
        print(f"SEED={seed} RUNS={min(kills, _KILLS_AT_ONCE)}", flush=True)
        with tempfile.TemporaryDirectory(prefix="storm-") as directory:
            print(asyncio.run(storm(Path(directory), seed=seed, kills=min(kills, _KILLS_AT_ONCE))), flush=True)
        kills -= _KILLS_AT_ONCE
        seed += 1


main(sys.argv[1:])
