"""What a newcomer sees first."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parent.parent / "examples" / "demo.sh"


@pytest.mark.long
def test_the_demo_shows_an_agent_replays_it_from_the_middle_and_survives_a_kill(tmp_path: Path) -> None:
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "DEMO_DIR": str(tmp_path / "demo"),
    }

    shown = subprocess.run(["bash", DEMO], env=environment, capture_output=True, text=True, timeout=150, check=False)

    assert shown.returncode == 0, shown.stderr
    first, _, crash = shown.stdout.partition("Now the service is killed")
    live, _, replay = first.partition("The same execution from the log")
    for expected in (
        "[1] plan:\n[1] [>] Write primes.sh",
        "$ sh primes.sh 15",
        "9 is prime",
        "found 6 of 6",
        "succeeded in",
    ):
        assert expected in live
    assert "succeeded in" in replay
    assert "[1] plan:\n[1] [>]" not in replay
    last_words = live.strip().splitlines()[-1]
    assert replay.strip().endswith(last_words)
    # The tools have really run.
    assert (tmp_path / "demo" / "workspace" / "primes.txt").read_text().splitlines()[-1] == "13 is prime"
    # Nothing is lost, and nothing is done twice, although the service was killed in the middle of a command.
    steps = [f"step {number}" for number in range(1, 9)]
    assert (tmp_path / "demo" / "workspace" / "steps.txt").read_text().splitlines() == steps
    assert crash.splitlines()[-8:] == steps
    assert "was not run again" in crash
    assert ", resumed" in crash
    numbers = re.search(r"(\d+) events are in the log, the last one is number (\d+)", crash)
    assert numbers is not None
    assert numbers[1] == numbers[2]
    assert "lost the service" in shown.stderr
