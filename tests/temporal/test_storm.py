"""Killed at random moments, the service, the daemon and Temporal lose no execution, and do nothing twice."""

import os
import random
from pathlib import Path

import pytest
from tests.temporal.server import needs_temporal
from tests.temporal.storm import storm

pytestmark = needs_temporal


async def run_storm(directory: Path, kills: int) -> None:
    """Prints the seed, so that a storm can be repeated."""
    seed = int(os.environ.get("SEED") or random.randrange(1_000_000))
    print(f"SEED={seed}")
    report = await storm(directory, seed=seed, kills=kills)
    print(report)
    assert sum(report.kills.values()) == kills


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_nothing_is_lost_when_each_of_them_is_killed_once(tmp_path: Path) -> None:
    await run_storm(tmp_path, kills=3)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_nothing_is_lost_in_a_long_storm(tmp_path: Path) -> None:
    await run_storm(tmp_path, kills=30)
