"""Check of what this machine can confine, by the same probe that the service uses."""

import os
import tempfile
from pathlib import Path

from runner_service.check.result import Check
from runner_service.executors.local.confinement.confiner import Confiner, Place
from runner_service.executors.local.supervisor_process import supervisor_process
from runner_service.executors.supervisor.watchdog import Quota
from runner_service.settings import Settings

_NAME = "SANDBOX_CONFINEMENT"


async def confinement_check(settings: Settings) -> Check:
    """Opens a cell and looks from inside whether it holds. Uses a state directory of its own."""
    with tempfile.TemporaryDirectory(prefix="confinement-check-") as directory:
        home = os.environ.get("HOME") or directory
        async with supervisor_process(Path(directory), settings.kill_grace, Quota()) as shared:
            place = Place(Path(directory), home)
            confiner = Confiner(place, grace=settings.kill_grace, quota=Quota(), shared=shared)
            ability = await confiner.ability()
    required = settings.sandbox_confinement
    if ability.mechanism == "none":
        status, text = ("warn", "not required") if required == "none" else ("fail", f"{required} is required")
        return Check(_NAME, status, f"{text}, and cannot be had here: {ability.reason}", ability.remedy)  # type: ignore[arg-type]  # of two literals
    if ability.is_thread:
        text = f"{required}; {ability.mechanism} can enforce network levels all and none here, not proxy"
        return Check(_NAME, "warn" if required == "none" else "ok", text, f"to do more: {ability.reason}")
    gaps = f", gaps: {', '.join(ability.gaps)}" if ability.gaps else ""
    text = f"{required}; {ability.mechanism} can enforce every level here{gaps}"
    if required == "none":
        advice = "set SANDBOX_CONFINEMENT=workspace, so that commands cannot write or read what is not theirs"
        return Check(_NAME, "warn", text, advice)
    return Check(_NAME, "ok", text)
