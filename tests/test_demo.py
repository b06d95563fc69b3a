"""What a newcomer sees first."""

import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parent.parent / "examples" / "demo.sh"


def test_the_demo_shows_a_real_agent_loop_and_replays_it_from_the_middle(tmp_path: Path) -> None:
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "DEMO_DIR": str(tmp_path / "demo"),
    }

    shown = subprocess.run(["bash", DEMO], env=environment, capture_output=True, text=True, timeout=90, check=False)

    assert shown.returncode == 0, shown.stderr
    live, _, replay = shown.stdout.partition("The same execution from the log")
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
