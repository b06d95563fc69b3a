"""Every way out of a cell fails, for root and for an ordinary user, and would not without one."""

import json
import shutil
import sys

import pytest
from tests.executors.confinement.escapes import ESCAPES, GAPS_OF_THREAD
from tests.executors.confinement.trying import RECORD, outcomes_of
from tests.executors.local.test_local_executor import python_for_all

from runner_service.executors.confinement import Confinement
from runner_service.executors.local.confinement.landlock import gaps_of_thread
from runner_service.executors.supervisor import kernel

pytestmark = [
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
    pytest.mark.skipif(shutil.which("curl") is None or shutil.which("git") is None, reason="needs curl and git"),
]
needs_another_user = pytest.mark.skipif(not python_for_all(), reason="needs root, and a Python that all users can run")

NAMES = {escape.name for escape in ESCAPES}


async def test_whoever_runs_the_service_nothing_gets_out() -> None:
    outcomes = await outcomes_of(as_ordinary_user=False)
    assert outcomes.keys() == NAMES
    assert [name for name, got_out in outcomes.items() if got_out] == []


@needs_another_user
async def test_for_an_ordinary_user_nothing_gets_out() -> None:
    outcomes = await outcomes_of(as_ordinary_user=True)
    assert [name for name, got_out in outcomes.items() if got_out] == []


@needs_another_user
@pytest.mark.skipif(sys.platform != "linux" or kernel.landlock_abi() < 6, reason="needs Landlock 6 (Linux 6.12)")
async def test_out_of_a_restricted_thread_nothing_gets_but_by_the_gaps_that_are_named() -> None:
    outcomes = await outcomes_of(as_ordinary_user=True, how="thread")
    assert [name for name, got_out in outcomes.items() if got_out and name not in GAPS_OF_THREAD] == []
    refused = {name for name, got_out in outcomes.items() if got_out is None}
    hiding = {"read what the request hides", "move a directory above what is hidden in the root"}
    assert refused == {each.name for each in ESCAPES if each.network == "proxy"} | hiding


def test_the_gaps_of_the_escapes_are_those_that_started_names() -> None:
    named = gaps_of_thread(Confinement(files="workspace"))
    assert set(GAPS_OF_THREAD.values()) <= set(named)
    assert GAPS_OF_THREAD.keys() <= NAMES


@needs_another_user
async def test_without_a_cell_most_of_them_get_out() -> None:
    """The control: a script that gets nowhere by itself would prove nothing."""
    outcomes = await outcomes_of(as_ordinary_user=True, how="control")
    assert sum(map(bool, outcomes.values())) > len(NAMES) * 0.5


def test_the_record_for_the_page_is_of_these_escapes() -> None:
    record = json.loads(RECORD.read_text())
    for who in ("root", "user", "thread", "control"):
        assert record[who].keys() == NAMES, "run python -m tests.executors.confinement.trying, as root, and make docs"
    assert not any([*record["root"].values(), *record["user"].values()])
