"""Imports of large libraries."""

import subprocess
import sys

_MOST_YOUNG_OBJECTS = """
import gc
from runner_service.importing import large_import

with large_import():
    pass
most = 0
def count(phase, info):
    global most
    if phase == "start" and info["generation"] == 0:
        most = max(most, len(gc.get_objects(generation=0)))
gc.callbacks.append(count)
kept = [[] for _ in range(50_000)]
print(most)
"""


def test_afterwards_a_collection_looks_through_few_young_objects() -> None:
    printed = subprocess.run([sys.executable, "-c", _MOST_YOUNG_OBJECTS], check=True, capture_output=True, text=True)

    assert 0 < int(printed.stdout) < 3000
