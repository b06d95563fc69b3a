"""That the emulator's knobs do to the SDK's own log streaming what is known of the real one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from daytona import AsyncDaytona, DaytonaConfig, DaytonaError, SessionExecuteRequest
from tests.emulator import API_KEY, Cloud
from tests.executors.daytona.executors import later_sdk_only


@pytest.fixture
async def process(cloud: Cloud) -> AsyncIterator[Any]:
    config = DaytonaConfig(api_key=API_KEY, api_url=cloud.api_url, target="local")
    async with AsyncDaytona(config) as client:
        remote = await client.create()
        await remote.process.create_session("s")
        yield remote.process


async def begun(process: Any, text: str) -> str:
    started = await process.execute_session_command("s", SessionExecuteRequest(command=text, run_async=True))
    return str(started.cmd_id)


class Lines:
    """Takes a log; what comes after the first piece once `may_go_on` says so."""

    def __init__(self, may_go_on: Callable[[], bool] = lambda: True) -> None:
        self.text = ""
        self._may_go_on = may_go_on

    async def take(self, text: str) -> None:
        self.text += text
        while not self._may_go_on():
            await asyncio.sleep(0.02)


SEQUENCE = "".join(f"{number}\n" for number in range(1, 20001))


async def test_a_log_ends_late(cloud: Cloud, process: Any) -> None:
    cloud.faults.eof_lag = 3.0
    command, lines = await begun(process, "echo it"), Lines()
    following = asyncio.create_task(process.get_session_command_logs_async("s", command, lines.take, lines.take))
    while (await process.get_session_command("s", command)).exit_code is None:
        await asyncio.sleep(0.01)
    ended = asyncio.get_running_loop().time()
    await following
    assert asyncio.get_running_loop().time() - ended > 0.4
    assert lines.text == "it\n"


@later_sdk_only
async def test_a_log_is_whole_when_nothing_is_turned(cloud: Cloud, process: Any) -> None:
    cloud.faults.eof_lag = 0.1
    lines = Lines()
    await process.get_session_command_logs_async("s", await begun(process, "seq 20000"), lines.take, lines.take)
    assert lines.text == SEQUENCE


async def test_a_log_breaks_off_in_the_middle(cloud: Cloud, process: Any) -> None:
    cloud.faults.socket_cut_after = 30_000
    lines = Lines()
    with pytest.raises(DaytonaError):
        await process.get_session_command_logs_async("s", await begun(process, "seq 20000"), lines.take, lines.take)
    assert len(lines.text) < len(SEQUENCE)


async def test_a_log_that_nobody_reads_breaks_off(cloud: Cloud, process: Any) -> None:
    cloud.faults.socket_patience = 0.2
    cloud.faults.frame_size = 1_000_000
    lines = Lines(may_go_on=lambda: not any(path.endswith("/logs") for path in cloud.in_flight))
    text = "head -c 40000000 /dev/zero | tr '\\0' x | fold -w 100000"
    command = await begun(process, text)
    while (await process.get_session_command("s", command)).exit_code is None:
        await asyncio.sleep(0.05)
    with pytest.raises(DaytonaError):
        await process.get_session_command_logs_async("s", command, lines.take, lines.take)
    assert len(lines.text) < 40_000_000
