"""Killed at random moments, again and again, the service loses nothing and does nothing twice."""

import os
import random
from pathlib import Path

import pytest
from tests.chaos.storm import storm
from tests.forking import ForkServer


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_nothing_is_lost_and_nothing_happens_twice_in_a_storm_of_kills(
    tmp_path: Path, fork_server: ForkServer
) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(1_000_000))
    print(f"SEED={seed}")
    report = await storm(tmp_path, fork_server, seed=seed, kills=10, at_once=5)
    print(report)
    assert report.kills == 10
