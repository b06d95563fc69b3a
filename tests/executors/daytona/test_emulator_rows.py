"""The emulator answers as the real toolbox daemon, proxy and API do, as far as anything here depends on it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from tests.emulator import API_KEY, Cloud
from tests.emulator.cloud import Sandbox

Answer = tuple[int, Any]


class Caller:
    """Calls the emulator without the SDK."""

    def __init__(self, cloud: Cloud, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.cloud, self.sandbox, self._session = cloud, sandbox, session

    async def api(self, method: str, path: str = "", **about: Any) -> Answer:
        return await self._call(method, f"{self.cloud.api_url}/sandbox{path}", about)

    async def toolbox(self, method: str, path: str, **about: Any) -> Answer:
        return await self._call(method, f"{self.cloud.origin}/toolbox/{self.sandbox.id}{path}", about)

    async def execute(self, command: str, **about: Any) -> Answer:
        return await self.toolbox("POST", "/process/execute", json={"command": command, **about})

    async def _call(self, method: str, url: str, about: dict[str, Any]) -> Answer:
        async with self._session.request(method, url, **about) as response:
            text = await response.text()
            return response.status, await response.json() if text.startswith(("{", "[")) else text


@pytest.fixture
async def caller(cloud: Cloud) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {API_KEY}"}) as session:
        yield Caller(cloud, cloud.create({"name": "one"}), session)


def said(answer: Answer) -> tuple[int, str]:
    return answer[0], answer[1]["message"] if isinstance(answer[1], dict) else answer[1]


async def test_a_toolbox_is_refused_by_the_state_of_its_sandbox(caller: Caller) -> None:
    cloud, sandbox = caller.cloud, caller.sandbox
    cloud.faults.stop_seconds = 3.0
    stopping = asyncio.create_task(cloud.stop(sandbox))
    await asyncio.sleep(0)
    assert await caller.execute("true") == (502, "")
    await stopping
    status, body = await caller.execute("true")
    assert (status, body["code"], body["path"]) == (400, "BAD_REQUEST", "/process/execute")
    assert body["message"].startswith("bad request: failed to resolve container IP after 3 attempts")
    sandbox.state = "archived"
    assert said(await caller.execute("true"))[1].startswith("bad request: failed to get runner info")
    sandbox.state = "stopped"
    await cloud.delete(sandbox)
    while cloud.sandboxes:
        await asyncio.sleep(0.01)
    assert said(await caller.execute("true")) == (404, f"not found: sandbox container not found: {sandbox.id}")
    cloud.faults.proxy_remembers = False
    assert said(await caller.execute("true"))[0] == 401
    cloud.faults.is_api_away = True
    status, message = said(await caller.execute("true"))
    assert (status, message.startswith("bad request: failed to get sandbox public status")) == (400, True)


async def test_the_api_refuses_in_its_own_words(caller: Caller) -> None:
    status, message = said(await caller.api("POST", json={"snapshot": "x"}))
    assert (status, message) == (400, "Snapshot x not found. Did you add it through the Daytona Dashboard?")
    assert (await caller.api("POST", "/one/stop"))[0] == 200
    assert said(await caller.api("POST", "/one/stop")) == (400, "Sandbox is not in a stoppable state")
    assert (await caller.api("POST", "/one/start"))[0] == 200
    caller.cloud.faults.stop_seconds = 1.0
    stopping = asyncio.create_task(caller.cloud.stop(caller.sandbox))
    await asyncio.sleep(0)
    assert (await caller.api("DELETE", "/one"))[0] == 200
    await stopping


@pytest.mark.parametrize(
    "asked", [{"command": ""}, {}, {"command": "true", "envs": {"A-B": "1"}}, {"command": "true", "timeout": -1}]
)
async def test_an_exec_that_makes_no_sense_is_a_bad_request(caller: Caller, asked: dict[str, Any]) -> None:
    assert (await caller.toolbox("POST", "/process/execute", json=asked))[0] == 400


async def test_an_exec_that_cannot_be_started_says_so_in_gos_words(caller: Caller) -> None:
    failed = (200, {"exitCode": -1, "result": "fork/exec /usr/bin/bash: no such file or directory"})
    assert await caller.execute("true", cwd="/nowhere") == failed
    status, body = await caller.execute("true", envs={"A": "x" * 200_000})
    assert (status, body["result"]) == (200, "fork/exec /usr/bin/bash: argument list too long")


async def test_commands_find_what_they_find_in_a_real_sandbox(caller: Caller) -> None:
    _, answer = await caller.execute("echo $TERM $DAYTONA_SANDBOX_USER; ls -A; ps -o pgid= $$; echo $$; echo $0 $PATH")
    first, entry, group, pid, last = answer["result"].splitlines()
    assert (first, entry, group.strip() == pid) == ("dumb daytona", ".daytona", True)
    assert last.startswith("/usr/bin/bash ")
    assert "sbin" in last
    assert caller.sandbox.daemon
    os.kill(caller.sandbox.daemon.pid, signal.SIGTERM)  # it is PID 1 there: with it, all ends
    async with asyncio.timeout(60):
        while caller.sandbox.state != "stopped":
            await asyncio.sleep(0.01)


async def test_a_session_keeps_its_state_and_takes_input(caller: Caller) -> None:
    session, command = "/process/session", "/process/session/s/exec"
    assert await caller.toolbox("POST", session, json={"sessionId": "s"}) == (201, "")
    assert (await caller.toolbox("POST", session, json={"sessionId": "s"}))[0] == 409
    await caller.toolbox("POST", command, json={"command": "cd /tmp; A=1"})
    status, body = await caller.toolbox("POST", command, json={"command": "pwd; echo $A >&2"})
    assert (status, body["stdout"], body["stderr"], body["exitCode"]) == (200, "/tmp\n", "1\n", 0)
    assert "\x01\x01\x01/tmp\n" in body["output"]
    status, begun = await caller.toolbox("POST", command, json={"command": "read x; echo got $x", "runAsync": True})
    there = f"/process/session/s/command/{begun.pop('cmdId')}"
    assert (status, begun) == (202, dict.fromkeys(("output", "stdout", "stderr", "exitCode")))
    assert (await caller.toolbox("POST", f"{there}/input", json={"data": "it"}))[0] == 204
    async with asyncio.timeout(60):
        while "exitCode" not in (await caller.toolbox("GET", there))[1]:
            await asyncio.sleep(0.01)
    assert (await caller.toolbox("GET", f"{there}/logs"))[1]["stdout"] == "got it\n"
    assert (await caller.toolbox("POST", f"{there}/input", json={"data": "late"}))[0] == 410
    assert [each["sessionId"] for each in (await caller.toolbox("GET", session))[1]] == ["s"]
    assert (await caller.toolbox("DELETE", "/process/session/s"))[0] == 204


async def test_files_are_refused_as_there(caller: Caller) -> None:
    def upload(path: str) -> aiohttp.FormData:
        form = aiohttp.FormData()
        form.add_field("files[0].path", path)
        form.add_field("files[0].file", b"x", filename=path)
        return form

    caller.cloud.faults.full_disk = "full"
    (caller.sandbox.work / "directory").mkdir()
    for path in ("directory", "full"):
        status, body = await caller.toolbox("POST", "/files/bulk-upload", data=upload(path))
        assert (status, body["files"], len(body["errors"])) == (400, None, 1)
    for method, path, status in [
        ("GET", "/files?path=missing", 404),
        ("GET", "/files/info?path=missing", 404),
        ("DELETE", "/files?path=missing", 404),
        ("DELETE", "/files?path=directory", 400),
    ]:
        assert await caller.toolbox(method, path) == (status, "")
    assert (await caller.toolbox("POST", "/files/bulk-download", json={"paths": []}))[0] == 400
    status, body = await caller.toolbox("POST", "/files/bulk-download", json={"paths": ["directory"]})
    assert "INVALID_FILE_PATH" in body
    (caller.sandbox.work / "a").write_text("x")
    about = (await caller.toolbox("GET", "/files/info?path=a"))[1]
    assert (about["mode"], about["permissions"], "modifiedAt" in about) == ("-rw-r--r--", "0644", True)


async def test_an_old_server_leaves_out_what_later_sdks_insist_on(caller: Caller) -> None:
    caller.cloud.version = "0.190.0"
    assert "kvm" not in (await caller.api("GET", "/one"))[1]
    assert "networkBlockAll" not in (await caller.api("GET"))[1]["items"][0]
