"""Instructions of the hot paths, counted by valgrind: they do not change with the machine's load, as times do."""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks.hot_paths import PATHS
from benchmarks.processes import ROOT, plain_environment

_FEW, _MANY = 1_000, 11_000


def per_unit() -> dict[str, float]:
    """Returns the instructions of one more token, chunk or message, by path. Raises RuntimeError: no valgrind."""
    if not shutil.which("valgrind"):
        raise RuntimeError("valgrind is not installed: apt-get install valgrind")
    asked = [(name, count) for name in PATHS for count in (_FEW, _MANY)]
    with ThreadPoolExecutor(2) as threads:
        counted = dict(zip(asked, threads.map(lambda each: _instructions(*each), asked), strict=True))
    return {name: (counted[name, _MANY] - counted[name, _FEW]) / (_MANY - _FEW) for name in PATHS}


def _instructions(name: str, count: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    done = subprocess.run(
        [*command, "-m", "benchmarks.hot_paths", name, str(count)],
        cwd=ROOT,
        env={**plain_environment(), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(f"valgrind said nothing of instructions: {done.stderr[-500:]}")
    return int(found[1])
