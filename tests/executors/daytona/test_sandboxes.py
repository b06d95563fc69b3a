"""Sandboxes: whose they are, how they come and go, and that none is left."""

import asyncio
import contextlib
import time
from dataclasses import replace
from importlib.metadata import version

import pytest
from tests.emulator import Cloud
from tests.executors.daytona.conftest import CONFIG
from tests.executors.daytona.executors import account, later_sdk_only
from tests.executors.recorder import output

from runner_service.executors.daytona.config import LEASE, OWNER
from runner_service.executors.daytona.executor import Account, DaytonaExecutor, daytona_executor
from runner_service.executors.protocol import SandboxError, SandboxSpec
from runner_service.settings import SecretStr

CREATE = r"POST /api/sandbox$"


async def refusal(executor: DaytonaExecutor, session_id: str = "") -> SandboxError:
    try:
        async with executor.open(SandboxSpec("e", session_id=session_id)):
            raise AssertionError("it was opened")
    except SandboxError as error:
        return error


async def settled(cloud: Cloud) -> None:
    """Waits until nothing is left that is being deleted."""
    async with asyncio.timeout(60):
        while cloud.sandboxes:
            await asyncio.sleep(0.02)


async def test_an_execution_without_a_session_has_a_sandbox_of_its_own_that_goes_with_it(
    cloud: Cloud, executor: DaytonaExecutor
) -> None:
    async with executor.open(SandboxSpec("e1")) as one, executor.open(SandboxSpec("e2")) as two:
        await one.write_text("/a", "mine")
        assert await output(two, "ls") == ""
        assert len(cloud.sandboxes) == 2
        parameters = [remote.parameters for remote in cloud.sandboxes.values()]
        assert all(
            wish["autoDeleteInterval"] == 0 and wish["ttlMinutes"] > 0 < wish["autoStopInterval"] for wish in parameters
        )
    await settled(cloud)


async def test_the_sandbox_of_a_session_is_deleted_with_it_and_what_is_not_there_is_no_error(
    cloud: Cloud, executor: DaytonaExecutor
) -> None:
    spec = SandboxSpec("e1", session_id="s")
    async with executor.open(spec) as sandbox:
        await sandbox.write_text("/kept", "1")
    assert cloud.sandboxes
    for _ in range(2):
        await executor.delete(SandboxSpec("", session_id="s"))
        await settled(cloud)


async def test_a_session_keeps_its_sandbox(cloud: Cloud, executor: DaytonaExecutor) -> None:
    for number in range(3):
        async with executor.open(SandboxSpec(f"e{number}", session_id="s")) as sandbox:
            await output(sandbox, f"echo {number} >> log; sleep 83.01 &")
    async with executor.open(SandboxSpec("e9", session_id="s")) as sandbox:
        assert await output(sandbox, "cat log; pgrep -fx 'sleep 83.01' || true") == "0\n1\n2\n"
    assert cloud.created == 1


async def test_a_stopped_sandbox_is_started_again_with_a_notice(cloud: Cloud, executor: DaytonaExecutor) -> None:
    async with executor.open(SandboxSpec("e1", session_id="s")) as sandbox:
        await sandbox.write_text("/kept", "kept")
    (remote,) = cloud.sandboxes.values()
    await cloud.stop(remote)
    notices: list[tuple[str, str]] = []
    spec = SandboxSpec("e2", session_id="s", notify=lambda code, text: notices.append((code, text)))
    async with executor.open(spec) as sandbox:
        assert await output(sandbox, "cat kept") == "kept"
    ((code, text),) = notices
    assert code == "SANDBOX_RESTARTED"
    assert "processes and memory are gone" in text


async def test_the_environment_goes_to_commands_and_not_to_the_sandbox(cloud: Cloud, executor: DaytonaExecutor) -> None:
    async with executor.open(SandboxSpec("e", environment={"TOKEN": "of-the-caller"})) as sandbox:
        assert await output(sandbox, "echo $TOKEN") == "of-the-caller\n"
        (remote,) = cloud.sandboxes.values()
        assert not remote.parameters.get("env")
        assert "of-the-caller" not in str(remote.executed)


async def test_a_snapshot_is_asked_for(cloud: Cloud) -> None:
    for snapshot in ("dev-tools", "unknown"):
        async with daytona_executor(account(cloud), replace(CONFIG, snapshot=snapshot)) as executor:
            if snapshot == "unknown":
                assert "DAYTONA_DEV_TOOLS_SNAPSHOT_ID" in str(await refusal(executor))
                continue
            async with executor.open(SandboxSpec("e")):
                assert [remote.parameters["snapshot"] for remote in cloud.sandboxes.values()] == ["dev-tools"]


@pytest.mark.parametrize("how", ["502", "drop", "lose", "replay", "429"])
async def test_a_create_that_fails_leaves_one_sandbox_and_then_none(
    cloud: Cloud, executor: DaytonaExecutor, how: str
) -> None:
    fault = cloud.faults.add(CREATE, how)  # type: ignore[arg-type]  # of its kind
    async with executor.open(SandboxSpec("e")) as sandbox:
        assert await output(sandbox, "echo here") == "here\n"
        assert len(cloud.sandboxes) == 1
    assert fault.seen == 1
    await settled(cloud)


async def test_a_slow_start_is_told_and_survives_failing_looks(cloud: Cloud, executor: DaytonaExecutor) -> None:
    cloud.faults.start_seconds = 3.0
    cloud.faults.slow_state = "pulling_snapshot"
    cloud.faults.add(r"GET /api/sandbox/", "502", 2, skip=1)
    notices: list[str] = []
    async with executor.open(SandboxSpec("e", notify=lambda code, text: notices.append(code))) as sandbox:
        assert await output(sandbox, "echo here") == "here\n"
    assert set(notices) == {"SANDBOX_STARTING"}
    await settled(cloud)


async def test_a_start_that_takes_too_long_is_given_up_and_its_sandbox_deleted(cloud: Cloud) -> None:
    cloud.faults.start_seconds = 2.0
    cloud.faults.add(r"GET /api/sandbox/", "502")  # ends the SDK's own wait
    async with daytona_executor(account(cloud), replace(CONFIG, start_timeout=0.3, close_timeout=20.0)) as executor:
        assert "did not start within" in str(await refusal(executor))
    await settled(cloud)


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.3])
async def test_a_cancel_in_the_middle_of_a_start_leaves_no_sandbox(
    cloud: Cloud, executor: DaytonaExecutor, seconds: float
) -> None:
    cloud.faults.start_seconds = 0.6
    opening = asyncio.create_task(refusal(executor))
    while not cloud.sandboxes:
        await asyncio.sleep(0.005)
    await asyncio.sleep(seconds)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    assert cloud.created == 1
    await settled(cloud)


@pytest.mark.parametrize(
    ("how", "code", "retryable"),
    [("quota", "SANDBOX_QUOTA_EXCEEDED", True), ("400", "SANDBOX_REFUSED", False)],
)
async def test_what_no_patience_helps_against_has_its_own_name(
    cloud: Cloud, executor: DaytonaExecutor, how: str, code: str, retryable: bool
) -> None:
    cloud.faults.add(CREATE, how)  # type: ignore[arg-type]  # of its kind
    error = await refusal(executor)
    assert (error.code, error.retryable) == (code, retryable)


async def test_a_rate_limit_that_lasts_has_its_own_name(cloud: Cloud) -> None:
    cloud.faults.add(CREATE, "429", 99, retry_after=100.0)
    async with daytona_executor(account(cloud), replace(CONFIG, start_timeout=20.0)) as executor:
        assert (await refusal(executor)).code == "SANDBOX_RATE_LIMITED"


async def test_a_sandbox_that_was_deleted_in_mid_run_is_lost(cloud: Cloud, executor: DaytonaExecutor) -> None:
    async with executor.open(SandboxSpec("e")) as sandbox:
        (remote,) = cloud.sandboxes.values()
        await cloud.delete(remote)
        with pytest.raises(SandboxError) as lost:
            await output(sandbox, "true")
    assert lost.value.code == "SANDBOX_LOST"
    assert cloud.created == 1


async def test_a_name_that_somebody_else_has_is_left_alone(cloud: Cloud, executor: DaytonaExecutor) -> None:
    async with executor.open(SandboxSpec("e1", session_id="s")):
        pass
    (remote,) = cloud.sandboxes.values()
    remote.labels = {"code-toolbox-language": "python"}
    assert "DAYTONA_OWNER" in str(await refusal(executor, session_id="s"))
    assert cloud.sandboxes


async def test_the_reaper_takes_what_a_crash_left_and_no_siblings_sandbox(cloud: Cloud) -> None:
    from daytona import AsyncDaytona, DaytonaConfig

    labels = {OWNER: "runner-service", "runner-service-kind": "execution", "code-toolbox-language": "python"}
    past, future = str(int(time.time()) - 60), str(int(time.time()) + 60)
    abandoned = cloud.create({"name": "abandoned", "labels": {**labels, LEASE: past}})
    kept = [
        cloud.create({"name": "sibling", "labels": {**labels, LEASE: future}}),
        cloud.create({"name": "session", "labels": {**labels, "runner-service-kind": "session", LEASE: past}}),
        cloud.create({"name": "stranger", "labels": {**labels, OWNER: "other", LEASE: past}}),
        cloud.create({"name": "unlabelled", "labels": {"code-toolbox-language": "python"}}),
    ]
    from runner_service.executors.daytona.manager import SandboxManager
    from runner_service.executors.daytona.raw_api import RawApi
    from runner_service.executors.daytona.reaper import reap_once

    async with AsyncDaytona(
        DaytonaConfig(api_key=account(cloud).api_key.get_secret_value(), api_url=cloud.api_url, target="x")
    ) as client:
        await reap_once(SandboxManager(client, RawApi(cloud.api_url, account(cloud).api_key), CONFIG), held={"sibling"})
    async with asyncio.timeout(60):
        while abandoned.id in cloud.sandboxes:
            await asyncio.sleep(0.02)
    assert [remote.id for remote in cloud.sandboxes.values()] == [remote.id for remote in kept]


async def test_a_list_that_is_old_costs_nobody_a_sandbox(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list says that the lease has ended; asked by its id, the sandbox says that it was renewed."""
    from daytona import AsyncDaytona, DaytonaConfig

    from runner_service.executors.daytona.config import KIND
    from runner_service.executors.daytona.manager import SandboxManager
    from runner_service.executors.daytona.raw_api import RawApi
    from runner_service.executors.daytona.reaper import reap_once

    remote = cloud.create(
        {"labels": {OWNER: "runner-service", KIND: "execution", LEASE: "1", "code-toolbox-language": "python"}}
    )
    async with AsyncDaytona(
        DaytonaConfig(api_key=account(cloud).api_key.get_secret_value(), api_url=cloud.api_url, target="x")
    ) as client:
        manager = SandboxManager(client, RawApi(cloud.api_url, account(cloud).api_key), CONFIG)
        find = manager.find

        async def renewed_meanwhile(name: str, **_: object) -> object:
            remote.labels[LEASE] = str(int(time.time()) + 60)
            return await find(name)

        monkeypatch.setattr(manager, "find", renewed_meanwhile)
        await reap_once(manager, held=())
    assert remote.id in cloud.sandboxes


async def test_the_lease_is_renewed_while_a_sandbox_is_held(cloud: Cloud) -> None:
    async with (
        daytona_executor(account(cloud), replace(CONFIG, lease=4.0)) as executor,
        executor.open(SandboxSpec("e")),
    ):
        (remote,) = cloud.sandboxes.values()
        first = remote.labels[LEASE]
        async with asyncio.timeout(60):
            while remote.labels[LEASE] == first or not any(each.endswith("/last-activity") for each in cloud.requests):
                await asyncio.sleep(0.05)
        assert remote.labels[OWNER] == "runner-service"


async def test_a_wrong_key_is_said_and_not_shown(cloud: Cloud) -> None:
    wrong = Account(SecretStr("dtn_wrong_secret"), cloud.api_url)
    async with daytona_executor(wrong, CONFIG) as executor:
        error = await refusal(executor)
    assert error.code == "SANDBOX_UNAUTHENTICATED"
    assert "dtn_wrong_secret" not in f"{error} {error.__cause__!r} {wrong!r}"


@later_sdk_only
async def test_an_answer_that_the_sdk_cannot_read_is_named_at_once_and_leaves_no_sandbox(
    cloud: Cloud, executor: DaytonaExecutor
) -> None:
    cloud.version = "0.190.0"
    for session_id in ("", "s"):
        error = await refusal(executor, session_id)
        assert (error.code, error.retryable) == ("SANDBOX_INCOMPATIBLE", False)
        assert f"SDK {version('daytona')}" in str(error)
        assert "version 0.190.0" in str(error)
        assert "0.200.0" in str(error)
    assert cloud.created == 2
    await settled(cloud)


@later_sdk_only
async def test_the_files_of_a_session_are_kept_from_an_sdk_that_cannot_read_about_them(
    cloud: Cloud, executor: DaytonaExecutor
) -> None:
    async with executor.open(SandboxSpec("e1", session_id="s")):
        pass
    cloud.version = "0.190.0"
    assert (await refusal(executor, "s")).code == "SANDBOX_INCOMPATIBLE"
    assert cloud.sandboxes


async def test_the_time_for_a_start_is_for_all_of_it(cloud: Cloud) -> None:
    """Whatever hangs: the create, the installation, or the session in it."""
    for where in (CREATE, r"GET /api/sandbox/", r"POST .*/process/execute"):
        fault = cloud.faults.add(where, "hang", 1_000_000)
        async with asyncio.timeout(60), daytona_executor(account(cloud), replace(CONFIG, start_timeout=1.0)) as one:
            error = await refusal(one, "s" if where.startswith("GET") else "")
            assert error.code == "SANDBOX_UNAVAILABLE"
            fault.times = 0
    await settled(cloud)
