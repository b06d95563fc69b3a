"""Commands that attack the process that owns them."""

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.executors.recorder import output
from tests.hostile.conftest import ATTACKING, Attack, attacking
from tests.running import StartProcess, command, one, stdout_of, turn

from runner_service.executors.local.executor import local_executor
from runner_service.executors.local.orphan_record import OrphanRecord
from runner_service.executors.protocol import SandboxError, SandboxSpec
from runner_service.storage.event_log import StateDirError
from runner_service.storage.sqlite import event_log
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

ATTACKS = {
    "stopped once": "kill -STOP $PPID; sleep 3",
    "stopped again and again": "for i in 1 2 3 4 5 6; do kill -STOP $PPID; sleep 1.5; done",
    "stopped by a process that has left": "setsid -f sh -c 'sleep 1; kill -STOP '$PPID'; sleep 3; kill -STOP '$PPID",
    "stopped with the output full": "yes | head -c 3000000; kill -STOP $PPID; yes",
    "killed": "kill -KILL $PPID; sleep 30",
    "asked to end": "kill -TERM $PPID; kill -INT $PPID; kill -HUP $PPID; kill -QUIT $PPID; sleep 2",
}


@pytest.mark.long
@pytest.mark.parametrize("name", ATTACKS)
async def test_a_command_that_signals_the_supervisor_keeps_nobody_waiting(attack: Attack, name: str) -> None:
    async with attack(ATTACKING, fields=attacking(ATTACKS[name])) as target:
        for _ in range(100):  # other commands are refused while the supervisor is replaced, and run again soon after
            try:
                await target.answers()
                break
            except AssertionError:
                await asyncio.sleep(0.3)
        else:
            await target.answers()
        await target.cancel()


IN_A_CELL = {
    "stopped once": "kill -STOP $PPID; sleep 3",
    "stopped again and again": "for i in 1 2 3 4 5 6; do kill -STOP $PPID; sleep 1.5; done",
    "stopped by a process that has left": "setsid -f sh -c 'sleep 1; kill -STOP '$PPID'; sleep 3; kill -STOP '$PPID",
    "stopped with its first process": "kill -STOP 1; kill -STOP $PPID; sleep 3",
    "killed": "kill -KILL $PPID; sleep 30",
    "killed with its first process": "kill -KILL 1; kill -KILL $PPID; sleep 30",
}


@pytest.mark.long
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
@pytest.mark.parametrize("name", IN_A_CELL)
async def test_a_command_that_signals_the_supervisor_of_its_cell_hurts_its_own_execution_only(
    attack: Attack, name: str
) -> None:
    confinement = runner_pb2.Confinement(files=event_pb2.FILES_CONFINEMENT_WORKSPACE)
    async with attack(ATTACKING, fields=attacking(IN_A_CELL[name], confinement=confinement)) as target:
        for _ in range(5):  # for longer than a stopped supervisor is let be; not one other command is refused
            await target.answers()
            await asyncio.sleep(0.5)
        await target.cancel()


async def test_a_stopped_supervisor_is_continued_once_and_replaced_after_that(start_process: StartProcess) -> None:
    service = await start_process([turn("", command("echo $PPID; sleep 60")), turn("Done.")])
    call = service.stub.ExecuteAgent(service.client.request(execution_id="e"))
    seen = await service.client.collect(call, until=lambda event: event.HasField("tool_output"))
    pid = int(stdout_of(seen))
    watching = asyncio.create_task(service.client.collect(call))
    health: Any = health_pb2_grpc.HealthStub(service.channel)
    states: list[int] = []

    async def watch() -> None:
        async for answer in health.Watch(health_pb2.HealthCheckRequest()):
            states.append(answer.status)  # noqa: PERF401  # one by one, for who waits

    readiness = asyncio.create_task(watch())
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(30):
        while _state_of(pid) != "T":  # it stops a moment after `kill` returns; until then a second SIGSTOP is lost
            await asyncio.sleep(0.01)
        while _state_of(pid) == "T":
            await asyncio.sleep(0.05)
    assert not watching.done()
    os.kill(pid, signal.SIGSTOP)
    events = await asyncio.wait_for(watching, 60)
    assert "it was stopped again by a signal" in one(events, "tool_call_finished").result
    assert "it was stopped again by a signal" in one(events, "finished").error.message
    async with asyncio.timeout(30):
        while states[-2:] != [health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING]:
            await asyncio.sleep(0.05)
    readiness.cancel()


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
FORGED = {
    "everything that has no limit": [-2, 0],
    "everything": [-(2**63), 2**63 - 1],
    "numbers below zero": [-(2**34), 0],
    "a size of no zone": [0, 2**60],
    "not where a zone begins": [5, 5 + 2**34],
    "text": ["a", "b"],
    "one number": [1],
    "nothing": None,
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_record_of_orphans_ends_nobody(tmp_path: Path, name: str) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "supervisor.json").write_text(json.dumps({"boot_id": BOOT_ID, "zone": FORGED[name]}))
    bystander = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
    try:
        async with (
            local_executor(root=tmp_path / "root", state_dir=state) as executor,
            executor.open(SandboxSpec("e")) as sandbox,
        ):
            assert await output(sandbox, "echo fine") == "fine\n"
        assert bystander.returncode is None
    finally:
        bystander.kill()
        await bystander.wait()


def test_a_record_of_orphans_that_others_may_write_is_refused(tmp_path: Path) -> None:
    record = tmp_path / "supervisor.json"
    record.touch()
    record.chmod(0o666)
    with pytest.raises(SandboxError, match="no file of this user alone"):
        OrphanRecord(tmp_path)


@pytest.mark.parametrize("kind", ["link", "second name"])
def test_a_record_of_orphans_that_is_somewhere_else_is_refused(tmp_path: Path, kind: str) -> None:
    elsewhere, state = tmp_path / "elsewhere", tmp_path / "state"
    elsewhere.write_text("precious")
    elsewhere.chmod(0o600)
    state.mkdir()
    if kind == "link":
        (state / "supervisor.json").symlink_to(elsewhere)
    else:
        (state / "supervisor.json").hardlink_to(elsewhere)
    with pytest.raises(SandboxError):
        OrphanRecord(state)
    assert elsewhere.read_text() == "precious"


async def test_a_state_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    with pytest.raises(StateDirError, match="may be written by other users"):
        async with event_log.sqlite_event_log(state):
            pass


async def test_a_state_directory_with_links_in_it_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "events.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateDirError, match="has links in it"):
        async with event_log.sqlite_event_log(state):
            pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
async def test_a_state_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    os.chown(state, 12345, 12345)
    with pytest.raises(StateDirError, match="belongs to another user"):
        async with event_log.sqlite_event_log(state):
            pass
