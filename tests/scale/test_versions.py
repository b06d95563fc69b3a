"""Replicas of an earlier version and of this one, side by side as in a rolling update."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.running import one, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment, kind, resumed

from runner_service.storage.redis import suitability
from runner_service.v1 import execution_event_pb2 as event_pb2

ROOT = Path(__file__).parents[2]

pytestmark = [needs_redis, pytest.mark.long]


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False).stdout


def oldest_source(directory: Path) -> Path:
    """Returns the source of the first version that has the layout of this one, from the history of the repository."""
    path = Path(suitability.__file__).relative_to(ROOT)
    found = _git("log", f"-S_LAYOUT = {suitability._LAYOUT!r}".replace("'", '"'), "--format=%H", "--", str(path))
    if shutil.which("tar") is None or not found:
        pytest.skip("the history of the repository is not at hand")
    archive = _git("archive", found.decode().split()[-1], "src")
    subprocess.run(["tar", "-x", "-C", directory], input=archive, check=True)
    where = [sys.executable, "-c", "import runner_service; print(runner_service.__file__)"]
    environ = {**os.environ, "PYTHONPATH": str(directory / "src")}
    ran = subprocess.run(where, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    assert ran.stdout.startswith(str(directory)), "the version before is not what would run"
    return directory / "src"


async def test_15_an_earlier_version_and_this_one_take_over_from_each_other(
    deployment: Deployment, tmp_path: Path
) -> None:
    text = " ".join(map(str, range(12)))
    slow = [turn(text, delay=0.8)]  # also on a busy machine those that run it are killed before the end
    earlier = ["env", f"PYTHONPATH={oldest_source(tmp_path)}"]
    await deployment.start(slow, before=earlier)
    await deployment.start(slow)
    await deployment.begin(1, "down", until="text_delta")
    watcher = deployment.watch(0, execution_id="down")
    await watcher.until(kind("text_delta"))
    await deployment.kill(1)
    await watcher.until(resumed)
    assert one(await watcher.ended(), "finished").state == event_pb2.STATE_SUCCEEDED

    await deployment.start(STIGMER_LLM_SCRIPT=deployment.other_script([turn(text, delay=0.2)]))
    await deployment.begin(0, "up", until="text_delta")
    watchers = [deployment.watch(0, 2, execution_id="up"), deployment.watch(2, execution_id="up")]
    for each in watchers:
        await each.until(kind("text_delta"))
    await deployment.kill(0)
    events, others = [await each.ended() for each in watchers]
    assert events == others
    assert any(map(resumed, events))
    assert one(events, "finished").output == text
    assert await deployment.watch(2, execution_id="down").ended() == watcher.events
