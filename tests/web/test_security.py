"""What keeps other sites, other names and strangers out of the page."""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from tests.callers.files import CallersYaml
from tests.running import Client, StartProcess, StartService, command, turn
from tests.server.test_tls import write_server_files

from runner_service.settings import SettingsError, load_settings
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.web import cookies
from runner_service.web.cookies import CookieSeal

TOKEN = "a-token-of-the-operator"
ON = {"WEB_ADDRESS": "127.0.0.1:0"}


def web_address(client: Client) -> str:
    return str(client.service.web_address)  # type: ignore[union-attr]  # in this process


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as opened:
        yield opened


async def post(
    http: aiohttp.ClientSession, address: str, path: str, json: object = None, **headers: str
) -> tuple[int, bytes]:
    given = {"Origin": f"http://{address}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with http.post(f"http://{address}{path}", json=json or {}, headers=given) as response:
        return response.status, await response.read()


async def test_every_response_says_what_the_page_may_do(start: StartService) -> None:
    address = web_address(await start([turn("Hi.")], **ON))
    async with session() as http:
        for path in ("/", "/page.js", "/style.css", "/schema.js", "/nothing.js"):
            async with http.get(f"http://{address}{path}") as response:
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "'unsafe" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        async with http.get(f"http://{address}/page.js") as response:
            assert response.content_type == "text/javascript"


@pytest.mark.parametrize(
    "host", ["attacker.test", "attacker.test:80", "127.0.0.1.attacker.test", "", "[", "localhost.attacker.test"]
)
async def test_a_name_that_only_resolves_to_the_service_is_refused(start: StartService, host: str) -> None:
    address = web_address(await start([turn("Hi.")], **ON))
    async with session() as http:
        async with http.get(f"http://{address}/", headers={"Host": host}) as response:
            assert response.status in {400, 421}
        status, _ = await post(http, address, "/api/ListExecutions", Host=host, Origin=f"http://{host}")
        assert status in {400, 421}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://attacker.test"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://[::1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
    ],
)
async def test_another_site_cannot_make_a_call(start: StartService, headers: Mapping[str, str]) -> None:
    address = web_address(await start([turn("Hi.")], **ON))
    async with session() as http:
        rpcs = ("CancelExecution", "SubmitApproval", "RevertChanges", "ListExecutions")
        for path in (*(f"/api/{rpc}" for rpc in rpcs), "/login", "/about", "/replicas", "/usage"):
            status, _ = await post(http, address, path, **headers)
            assert status in {403, 415}


async def test_only_the_rpcs_of_the_page_can_be_called(start: StartService) -> None:
    address = web_address(await start([turn("Hi.")], **ON))
    async with session() as http:
        for rpc in ("ExecuteAgent", "DeleteExecution", "DeleteSession", "Nothing", "__init__", "handler"):
            assert (await post(http, address, f"/api/{rpc}"))[0] == 404
        assert (await post(http, address, "/api/GetExecution", {"execution_id": "none"}))[0] == 404
        assert (await post(http, address, "/api/GetExecution", {"no_such_field": 1}))[0] == 400
        assert (await post(http, address, "/api/WatchExecution", {"execution_id": "none"}))[0] == 404
        for path in ("/../pyproject.toml", "/static/page.js", "/page.js/", "/..%2fserver.py", "/.git"):
            async with http.get(f"http://{address}{path}") as response:
                assert response.status == 404


async def test_a_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(
    start_process: StartProcess, tmp_path: Path
) -> None:
    await start_process([turn("Hi.")], AUTH_TOKEN=TOKEN, WEB_ADDRESS="127.0.0.1:0")
    address = web_of(tmp_path)
    async with session() as http:
        assert (await post(http, address, "/about"))[0] == 401
        assert (await post(http, address, "/api/ListExecutions"))[0] == 401
        for wrong in ("", "wrong", "é", None, 7, "x" * 5000):
            assert (await post(http, address, "/login", {"token": wrong}))[0] == 401
        given = {"Origin": f"http://{address}"}
        async with http.post(f"http://{address}/login", json={"token": TOKEN}, headers=given) as response:
            assert response.status == 200
            cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert TOKEN not in base64.urlsafe_b64decode(cookie.split("=", 1)[1].split(";")[0] + "==").decode("latin-1")
        assert (await post(http, address, "/about"))[0] == 200
        status, body = await post(http, address, "/api/ListExecutions")
        assert (status, runner_pb2.ListExecutionsResponse.FromString(body)) == (
            200,
            runner_pb2.ListExecutionsResponse(),
        )


def test_a_cookie_opens_only_with_the_key_that_sealed_it_and_not_for_ever() -> None:
    seal = CookieSeal(b"k" * 32)
    cookie = seal.seal(b"secret-token")
    assert seal.open(cookie) == b"secret-token"
    assert CookieSeal(b"k" * 32).open(cookie) == b"secret-token", "after a restart"
    assert CookieSeal(b"j" * 32).open(cookie) is None
    assert cookie != seal.seal(b"secret-token")
    for index in range(0, len(cookie), 7):
        changed = cookie[:index] + ("A" if cookie[index] != "A" else "B") + cookie[index + 1 :]
        assert seal.open(changed) is None
    for junk in ("", "a", "é", "=" * 10, "A" * 40, cookie[:-8]):
        assert seal.open(junk) is None
    assert CookieSeal(b"k" * 32, lambda: time.time() + cookies.MAX_AGE_SECONDS + 5).open(cookie) is None


async def test_roles_and_tenants_are_those_of_the_rpcs(start_process: StartProcess, tmp_path: Path) -> None:
    callers = CallersYaml(tmp_path / "callers.yaml")
    token = callers.add("watcher", roles=["watch"])
    await start_process([turn("", command("true")), turn("Done.")], CALLERS_FILE=str(callers.path), **ON)
    address = web_of(tmp_path)
    async with session() as http:
        assert (await post(http, address, "/login", {"token": token.token}))[0] == 200
        status, body = await post(http, address, "/about")
        assert (status, b'"may_approve": false' in body, b'"is_operator": false' in body) == (200, True, True)
        assert (await post(http, address, "/api/ListExecutions"))[0] == 200
        assert (await post(http, address, "/api/CancelExecution", {"execution_id": "a"}))[0] == 403
        decision = {"execution_id": "a", "tool_call_id": "c", "action": "APPROVAL_ACTION_APPROVE"}
        assert (await post(http, address, "/api/SubmitApproval", decision))[0] == 403
        assert (await post(http, address, "/api/RevertChanges", {"execution_id": "a"}))[0] == 403
        assert (await post(http, address, "/api/ListExecutions", x_runner_tenant="acme"))[0] == 403
        assert (await post(http, address, "/replicas"))[0] == 403
        assert (await post(http, address, "/api/ListExecutions", {"tenant": "*"}))[0] == 400
        callers.remove("watcher")
        async with asyncio.timeout(30):
            while (await post(http, address, "/about"))[0] != 401:
                await asyncio.sleep(0.05)


async def test_refusals_on_the_page_are_audited_and_a_tenant_is_named_once(
    start: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner_service.executions.audit._UNKNOWN_INTERVAL_SECONDS", 0.1)
    callers = CallersYaml(tmp_path / "callers.yaml")
    token = callers.add("watcher", "acme", ["watch"])
    client = await start([turn("Hi.")], CALLERS_FILE=str(callers.path), AUTH_TOKEN=TOKEN, **ON)
    address = web_address(client)
    async with session() as http:
        assert (await post(http, address, "/login", {"token": "wrong"}))[0] == 401
        assert (await post(http, address, "/login", {"token": token.token}))[0] == 200
        assert (await post(http, address, "/api/CancelExecution", {"execution_id": "a"}))[0] == 403
        assert (await post(http, address, "/api/ListExecutions", x_runner_tenant="globex"))[0] == 403
        assert (await post(http, address, "/api/ListExecutions", x_runner_tenant="acme"))[0] == 200
        twice = [("Origin", f"http://{address}"), ("x-runner-tenant", "acme"), ("x-runner-tenant", "globex")]
        async with http.post(f"http://{address}/api/ListExecutions", json={}, headers=twice) as response:
            assert (response.status, "one tenant" in await response.text()) == (400, True)
    operator = (("authorization", f"Bearer {TOKEN}"),)
    async with asyncio.timeout(30):
        found: dict[str, runner_pb2.AuditEntry] = {}
        while len(found) < 3:  # those that are not known are counted later
            await asyncio.sleep(0.1)
            page = await client.stub.ListAudit(runner_pb2.ListAuditRequest(), metadata=operator)
            found = {each.text: each for each in page.entries}
    assert found["UnauthenticatedError"].count == 1
    refused = found["CancelExecution needs the role run, which watcher does not have"]
    assert (refused.action, refused.caller.name, refused.rpc) == ("REFUSED", "watcher", "CancelExecution")
    refused = found["watcher may not act for the tenant globex"]
    assert (refused.action, refused.caller.tenant, refused.rpc) == ("REFUSED", "acme", "ListExecutions")


async def test_a_browser_is_known_by_its_certificate_or_by_a_token(start: StartService, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = write_server_files(tmp_path, authority) | {"TLS_CLIENT_CA_FILE": str(tmp_path / "ca.pem")}
    callers = CallersYaml(tmp_path / "callers.yaml")
    watcher = callers.add("watcher", roles=["watch"])
    callers.add("runner", roles=["run"], certificates=["email:ann@example.com"])
    url = f"https://{web_address(await start([turn('Hi.')], CALLERS_FILE=str(callers.path), **files, **ON))}"

    async def about(own: trustme.LeafCert | None, *, token: str | None = None) -> tuple[int, str]:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        if own:
            own.configure_cert(context)
        given = {"Origin": url}
        connector, jar = aiohttp.TCPConnector(ssl=context), aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as http:
            if token:
                async with http.post(f"{url}/login", json={"token": token}, headers=given) as response:
                    assert response.status == 200
                    assert "Secure" in response.headers["Set-Cookie"]
            async with http.post(f"{url}/about", json={}, headers=given) as response:
                return response.status, (await response.json()).get("name", "")

    known = authority.issue_cert("ann@example.com")
    assert await about(known) == (200, "runner")
    assert await about(known, token=watcher.token) == (200, "watcher"), "a token comes first"
    assert await about(None) == (401, "")
    assert await about(None, token=watcher.token) == (200, "watcher")
    assert await about(authority.issue_cert("eve@example.com")) == (401, "")
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await about(trustme.CA().issue_cert("ann@example.com"))
    callers.caller("runner")["certificates"] = []
    callers.write()
    async with asyncio.timeout(30):
        while await about(known) != (401, ""):
            await asyncio.sleep(0.05)


async def test_the_page_token_is_the_only_one_that_the_page_takes(start: StartService) -> None:
    address = web_address(await start([turn("Hi.")], **ON, WEB_TOKEN="a-token-of-the-page"))
    async with session() as http:
        assert (await post(http, address, "/about"))[0] == 401
        assert (await post(http, address, "/login", {"token": TOKEN}))[0] == 401
        assert (await post(http, address, "/login", {"token": "a-token-of-the-page"}))[0] == 200
        assert (await post(http, address, "/about"))[0] == 200


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WEB_ADDRESS": "0.0.0.0:8080", "AUTH_TOKEN": TOKEN}, "TLS_CERT_FILE"),
        ({"WEB_ADDRESS": "0.0.0.0:8080"}, "set a token"),
        ({"WEB_ADDRESS": "localhost:8080", "WEB_HOSTS": "runner.example.com"}, "WEB_HOSTS"),
        ({"WEB_ADDRESS": "localhost:50051"}, "is taken by LISTEN_ADDRESS"),
        ({"WEB_ADDRESS": "unix:/x"}, "WEB_ADDRESS"),
    ],
)
def test_an_address_that_would_be_open_to_others_is_refused(variables: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"MODE": "local", "STIGMER_LLM_PROVIDER": "scripted", **variables})
    assert said in str(refused.value)


async def test_a_browser_that_does_not_read_keeps_nobody_waiting(start: StartService) -> None:
    client = await start([turn("", command("head -c {{message}} /dev/zero | base64 -w 100")), turn("Done.")], **ON)
    host, port = web_address(client).rsplit(":", 1)
    await client.execute("20000000", execution_id="a")
    body = b'{"execution_id": "a"}'
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    head = f"POST /api/WatchExecution HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: http://{host}:{port}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"

    assert len(await client.execute("1000000", execution_id="b")) > 10
    watchers = client.service.executions  # type: ignore[union-attr]  # in this process
    assert watchers.watchers == 1
    writer.transport.abort()
    async with asyncio.timeout(30):
        while watchers.watchers:
            await asyncio.sleep(0.01)


def web_of(tmp_path: Path) -> str:
    return str(json.loads((tmp_path / "state" / "service.json").read_text())["web_address"])
