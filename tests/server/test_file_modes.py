"""The files of the service are its own, whatever the umask that it was started with."""

import os
from pathlib import Path

from tests.running import StartProcess, command, turn


async def test_with_a_umask_of_nothing_no_other_user_can_read_the_state(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service = await start_process(
        [turn("", command("echo output")), turn("Done.")], before=["sh", "-c", 'umask 0; exec "$@"', "sh"]
    )
    await service.client.execute(session_id="a-session")
    state = tmp_path / "state"
    found = [Path(place, name) for place, _, names in os.walk(state) for name in names]
    assert {each.name for each in found} >= {"events.db", "events.db-wal", "checkpoints.db", "service.json"}
    assert state.stat().st_mode & 0o077 == 0
    # Below a directory that is closed, the databases are closed too: who has opened it before could still reach them.
    open_to_others = [each.name for each in found if each.is_file() and each.stat().st_mode & 0o022]
    assert open_to_others == []
    assert [each.name for each in found if ".db" in each.name and each.stat().st_mode & 0o077] == []
