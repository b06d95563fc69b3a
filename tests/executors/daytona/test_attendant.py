"""The attendant itself, without a sandbox around it."""

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from runner_service.executors.attendant.server import Attendant
from runner_service.executors.local.orphan_record import OrphanRecord

OPEN = {
    "do": "open",
    "session": "e",
    "directory": "d",
    "below_root": "root",
    "environment": {},
    "terminate_grace": 0.25,
}


async def test_an_attendant_waits_for_the_end_of_an_earlier_one_that_still_has_the_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    earlier = await asyncio.to_thread(OrphanRecord, tmp_path / "state")
    async with AsyncExitStack() as parts:
        opening = asyncio.create_task(Attendant(tmp_path, parts)._dispatch({**OPEN, "root": str(tmp_path)}))
        while not opening.done() and "earlier_attendant_ending" not in caplog.text:
            await asyncio.sleep(0.01)
        earlier.release()
        assert (await opening)["root"] == str((tmp_path / "root").resolve())
