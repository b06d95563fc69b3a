"""Processes that die or stand still: the caller's, the supervisor's, the service's."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.descriptors import limit_with_room_for
from tests.running import Client, StartProcess, StartService, command, one, stdout_of, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

CALLER = """
import asyncio, sys
from runner_service.client import RunnerClient
from runner_service.v1 import agent_runner_pb2 as pb

async def main():
    async with RunnerClient(sys.argv[1]) as client:
        request = pb.ExecuteAgentRequest(execution_id="a", message="go", agent=pb.Agent(name="x"))
        async for event in client.execute(request):
            if event.HasField("tool_output"):
                print("seen", flush=True)

asyncio.run(main())
"""


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(60):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.02)


def supervisor(service: int | None = None) -> int:
    found = []
    for each in psutil.Process(service).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended, as commands of other tests may
            found += [each.pid] if any("supervisor" in part for part in each.cmdline()) else []
    (pid,) = found
    return pid


async def eventually_succeeds(client: Client) -> None:
    async with asyncio.timeout(60):
        while one(await client.execute("again"), "finished").state != event_pb2.STATE_SUCCEEDED:
            await asyncio.sleep(0.1)


async def test_a_caller_that_is_killed_leaves_nothing_running(start: StartService, tmp_path: Path) -> None:
    client = await start([turn("", command("echo $$ > pid; cat pid; sleep 60")), turn("Done.")], DISCONNECT_GRACE="0.1")
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CALLER, client.service.address, stdout=asyncio.subprocess.PIPE
    )
    assert caller.stdout
    assert await caller.stdout.readline() == b"seen\n"
    pid = int((tmp_path / "workspace" / "pid").read_text())
    caller.kill()
    await caller.wait()

    events = await client.collect(client.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="a")))

    assert one(events, "finished").state == event_pb2.STATE_CANCELLED
    await until_gone(pid)


async def test_the_death_of_the_supervisor_ends_what_ran_with_a_clear_account(start: StartService) -> None:
    client = await start({"turns": [turn("", command("echo $$; [ {{message}} = again ] || sleep 60")), turn("Done.")]})
    call = client.stub.ExecuteAgent(client.request("first", execution_id="a"))
    seen = await client.collect(call, until=lambda event: event.HasField("tool_output"))
    os.kill(supervisor(), signal.SIGKILL)

    events = seen + await client.collect(call)

    finished = one(events, "finished")
    assert finished.error.code == "SANDBOX_UNAVAILABLE"
    assert finished.error.retryable
    assert "supervisor was lost" in finished.error.message
    assert one(events, "tool_call_finished").outcome == event_pb2.TOOL_OUTCOME_CANCELLED
    await eventually_succeeds(client)
    await until_gone(int(stdout_of(events)))


async def test_a_service_that_was_stopped_for_a_while_goes_on(start_process: StartProcess) -> None:
    service = await start_process(
        [turn("", command("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done")), turn("Done.")]
    )
    call = service.stub.ExecuteAgent(service.client.request(execution_id="a"))
    seen = await service.client.collect(call, until=lambda event: event.HasField("tool_output"))
    service.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(1.0)
    service.process.send_signal(signal.SIGCONT)

    events = seen + await service.client.collect(call)

    assert stdout_of(events) == b"1\n2\n3\n4\n5\n6\n7\n8\n"
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_a_working_directory_that_is_gone_ends_the_execution_and_the_next_one_has_it_again(
    start: StartService, tmp_path: Path
) -> None:
    client = await start(
        {
            "turns": [
                turn("", command("[ {{message}} = again ] || rm -rf $PWD")),
                turn("", command("pwd")),
                turn("Done."),
            ]
        }
    )

    finished = one(await client.execute("first"), "finished")

    assert finished.error.code == "SANDBOX_UNAVAILABLE"
    assert "working directory cannot be entered" in finished.error.message
    again = await client.execute("again")
    assert stdout_of(again).decode().strip() == str((tmp_path / "workspace").resolve())


async def test_a_command_that_cannot_be_started_is_told_to_the_model(start: StartService) -> None:
    client = await start([turn("", command("true")), turn("It said: {{last_tool_result}}")])
    too_large = runner_pb2.EnvironmentValue(value="x" * 200_000)

    events = await client.execute(environment={"HUGE": too_large})

    call = one(events, "tool_call_finished")
    assert (call.outcome, call.exit_code) == (event_pb2.TOOL_OUTCOME_FAILED, 126)
    assert "could not be started: [Errno 7] Argument list too long" in one(events, "finished").output


# The kernel counts no processes against root, nor against who may do what root may. It still has to read our files.
AN_ORDINARY_USER = [
    "setpriv",
    *("--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--bounding-set=-all,+dac_override", "--inh-caps=-all,+dac_override", "--ambient-caps=+dac_override"),
]
ALLOW_PROCESSES = """
import resource, sys
pid, count = map(int, sys.argv[1:])
_, hard = resource.prlimit(pid, resource.RLIMIT_NPROC)
resource.prlimit(pid, resource.RLIMIT_NPROC, (hard if count < 0 else count, hard))
"""


def not_root() -> list[str]:
    """What to put before a program for it to run as an ordinary user; skips where that cannot be done."""
    before = [] if os.geteuid() else AN_ORDINARY_USER
    may = shutil.which("setpriv") and subprocess.run([*before, "true"], check=False, capture_output=True)
    if before and not (may and may.returncode == 0):
        pytest.skip("root cannot become an ordinary user here")
    return before


async def test_a_process_too_many_fails_the_call_and_neither_the_execution_nor_the_next_one(
    start_process: StartProcess, tmp_path: Path
) -> None:
    before = not_root()
    (tmp_path / "workspace").mkdir()  # which it could make, but asked whether it may it would say no
    service = await start_process([turn("", command("echo up")), turn("Said: {{last_tool_result}}")], before=before)
    await service.client.execute()
    pid = supervisor(service.process.pid)

    async def allow_processes(count: int) -> None:
        program = [*before, sys.executable, "-c", ALLOW_PROCESSES, str(pid), str(count)]
        assert await (await asyncio.create_subprocess_exec(*program)).wait() == 0

    await allow_processes(1)
    events = await service.client.execute()

    call, finished = one(events, "tool_call_finished"), one(events, "finished")
    assert (call.outcome, call.exit_code) == (event_pb2.TOOL_OUTCOME_FAILED, 126)
    assert finished.state == event_pb2.STATE_SUCCEEDED
    assert "could not be started: [Errno 11] Resource temporarily unavailable" in finished.output
    await allow_processes(-1)
    assert stdout_of(await service.client.execute()) == b"up\n"


async def test_a_service_without_a_shell_says_so(
    start_process: StartProcess, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="exit code 69"):
        await start_process([turn("Hi.")], PATH="/nowhere")
    assert "neither bash nor sh" in capfd.readouterr().err


async def test_a_service_without_file_descriptors_says_so_and_works_again_when_it_has_some(
    start_process: StartProcess,
) -> None:
    service = await start_process([turn("", command("echo out; echo err >&2")), turn("Said: {{last_tool_result}}")])
    await service.client.execute("warm up")
    process = psutil.Process(service.process.pid)
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (limit_with_room_for(1, process.pid), before[1]))

    events = await service.client.execute("without")
    finished = one(events, "finished")
    assert finished.error.code or "no pipe for the command: Too many open files" in finished.output

    process.rlimit(psutil.RLIMIT_NOFILE, before)
    await eventually_succeeds(service.client)
    assert shutil.which("bash")
