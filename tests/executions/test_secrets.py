"""A secret reaches the command that needs it, and nothing else."""

import asyncio
import base64
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.running import Client, StartProcess, StartService, command, holding, one, stdout_of, text_of, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

SECRET = "s3cr3t-v4lue-0f-the-caller"
OWN_KEY = "sk-0wn-key-of-the-service"


def environment() -> dict[str, runner_pb2.EnvironmentValue]:
    return {"TOKEN": runner_pb2.EnvironmentValue(value=SECRET, is_secret=True)}


async def test_a_secret_reaches_the_command_and_nothing_that_is_kept_or_shown(
    start: StartService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    slowly = "import os,time\nfor c in os.environ['TOKEN']:\n  print(c, end='', flush=True); time.sleep(0.005)"
    client = await start(
        [
            turn("", command('test "$TOKEN" = "$(printf %s s3cr3t-v4lue-0f)-the-caller" && echo same')),
            turn("", command(f'python3 -c "{slowly}"; echo; echo $TOKEN | base64; echo $TOKEN >&2')),
            turn("", ("write_file", {"file_path": "/said.txt", "content": f"it is {SECRET}"})),
            turn(f"The secret is {SECRET}.", ("read_file", {"file_path": "/out.txt"})),
            turn("You said: {{last_tool_result}}"),
        ]
    )
    (tmp_path / "workspace").mkdir(exist_ok=True)
    (tmp_path / "workspace" / "out.txt").write_text(f"prefix {SECRET} suffix")

    events = await client.execute(
        f"use {SECRET}",
        execution_id="secret",
        environment=environment(),
        agent=runner_pb2.Agent(name=f"agent {SECRET}", instructions=f"The token is {SECRET}"),
        labels={"token": SECRET},
    )
    record = await client.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id="secret"))
    assert SECRET not in str(record)

    assert stdout_of(events).startswith(b"same\n")
    assert "The secret is [redacted" in text_of(events)
    assert one(events, "finished").output
    shown = "".join(str(event) for event in events)
    logged = caplog.text
    for form in (SECRET, base64.b64encode(SECRET.encode()).decode().rstrip("=")[:-2]):
        assert form not in shown
        assert not holding(tmp_path / "state", form)
        assert form not in logged


async def test_the_next_execution_does_not_have_it(start: StartService) -> None:
    client = await start([turn("", command("echo token=$TOKEN")), turn("Ok.")])
    await client.execute(environment=environment())

    assert stdout_of(await client.execute()) == b"token=\n"


async def test_the_keys_of_the_service_reach_no_command(start: StartService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", OWN_KEY)
    client = await start([turn("", command("env; cat /proc/$PPID/environ")), turn("Ok.")], OPENAI_API_KEY=OWN_KEY)

    events = await client.execute()

    assert b"PATH=" in stdout_of(events)
    assert OWN_KEY.encode() not in stdout_of(events)
    assert OWN_KEY not in str(events)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such files")
async def test_the_environment_and_memory_of_the_service_are_closed_to_its_user(start_process: StartProcess) -> None:
    service = await start_process([turn("Ok.")], is_new=True, OPENAI_API_KEY=OWN_KEY)
    as_ordinary_user = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []

    for file in ("environ", "mem", "maps"):
        read = ["head", "-c1", f"/proc/{service.process.pid}/{file}"]
        reading = await asyncio.create_subprocess_exec(*as_ordinary_user, *read, stderr=asyncio.subprocess.PIPE)
        _, said = await reading.communicate()
        assert b"Permission denied" in said


async def test_live_output_stays_live_although_secrets_are_looked_for(start: StartService) -> None:
    client = await start(
        [turn("", command("printf 'progress s'; until [ -e go ]; do sleep 0.02; done; echo")), turn("Ok.")]
    )
    call = client.stub.ExecuteAgent(client.request(environment=environment()))

    events = await client.collect(call, until=lambda event: event.HasField("tool_output"))

    # What could be the beginning of a secret is held back, everything else is not.
    assert stdout_of(events) == b"progress "
    call.cancel()


async def test_an_error_that_holds_a_secret_is_redacted(start: StartService) -> None:
    client = await start([turn("", command("true")) for _ in range(5)])

    events = await client.execute(
        environment=environment(), limits=runner_pb2.ExecutionLimits(max_model_calls=2), execution_id="x"
    )
    await client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="x", reason=SECRET))

    assert SECRET not in str(events)


async def test_a_short_secret_is_refused_without_showing_it(start: StartService) -> None:
    client = await start([turn("Hi.")])

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.execute(environment={"PIN": runner_pb2.EnvironmentValue(value="99137", is_secret=True)})
    assert "99137" not in (refused.value.details() or "")


async def test_whether_a_secret_was_guessed_is_not_told(start: StartService) -> None:
    client = await start([turn("Done.")])
    await client.execute(execution_id="e1", environment=environment())
    guessed = {"TOKEN": runner_pb2.EnvironmentValue(value="another-guess", is_secret=True)}
    assert text_of(await client.execute(execution_id="e1", environment=guessed)) == "Done."
    public = {"TOKEN": runner_pb2.EnvironmentValue(value="another-guess")}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.execute(execution_id="e1", environment=public)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def beside_a_secret(client: Client, work: str, **fields: Any) -> bytes:
    """Returns what a command prints that runs beside one with a secret, begun before it."""
    turns = {"TASK": runner_pb2.EnvironmentValue(value=f"until [ -e pid ]; do sleep 0.02; done; {work}; touch end")}
    turns["GUESS"] = runner_pb2.EnvironmentValue(value=SECRET)
    call = client.stub.ExecuteAgent(client.request(environment=turns, **fields))
    await client.collect(call, until=lambda event: event.HasField("tool_call_started"))
    owner = {
        "TASK": runner_pb2.EnvironmentValue(value="echo $$ > new; mv new pid; until [ -e end ]; do sleep 0.02; done")
    }
    seen, _ = await asyncio.gather(client.collect(call), client.execute(environment={**environment(), **owner}))
    return stdout_of(seen)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such files")
async def test_a_secret_that_a_command_reads_from_another_executions_environment_is_redacted(
    start: StartService,
) -> None:
    client = await start([turn("", command('eval "$TASK"')), turn("Ok.")])
    read = "tr '\\0' '\\n' < /proc/$(cat pid)/environ | grep ^TOKEN="
    assert await beside_a_secret(client, read) == b"TOKEN=[redacted:secret]\n"


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
async def test_a_confined_execution_is_not_told_whether_it_guessed_the_secret_of_another(start: StartService) -> None:
    client = await start([turn("", command('eval "$TASK"')), turn("Ok.")])
    level = runner_pb2.Confinement(files=event_pb2.FILES_CONFINEMENT_WORKSPACE)
    assert await beside_a_secret(client, "echo $GUESS", confinement=level) == f"{SECRET}\n".encode()
