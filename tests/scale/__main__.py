"""Many repetitions of the acceptance tests: `python -m tests.scale [REPETITIONS=10] [SEED=…] [TESTS=test_5]`."""

import os
import random
import subprocess
import sys
from pathlib import Path

from tests.scale.redis_server import redis_path, valkey_path


def main(arguments: list[str]) -> int:
    """Runs the tests that have a number again and again, each time with another seed, which is printed first."""
    if not (redis_path() or valkey_path()):
        print("skipped: needs redis-server")
        return 0
    given = dict(each.split("=", 1) for each in arguments)
    seed = int(given.get("SEED", random.randrange(1_000_000)))
    numbers = (f"test_{number}_" for number in range(1, 20))
    wanted = given.get("TESTS", " or ".join(numbers))
    for repetition in range(int(given.get("REPETITIONS", "10"))):
        print(f"SEED={seed + repetition}", flush=True)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-m",
            "long or not long",
            "-k",
            wanted,
            str(Path(__file__).parent),
        ]
        ran = subprocess.run(
            command, env={**os.environ, "SCALE_SEED": str(seed + repetition), "SCALE_WHOLE": "1"}, check=False
        )
        if ran.returncode:
            return ran.returncode
    return 0


sys.exit(main(sys.argv[1:]))
