"""HTTP MCP servers of a confined execution: the service connects only to where its commands may."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from tests.running import StartService, one, turn

from runner_service.agent.mcp.egress import PolicyTransport
from runner_service.agent.mcp.redirects import require_same_host
from runner_service.allowed_hosts import parse_hosts
from runner_service.executors.egress.mcp_addresses import EgressAddresses, McpAddresses
from runner_service.executors.egress.policy import EgressPolicy
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


@asynccontextmanager
async def http_server(answer: bytes) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


async def test_an_allowed_address_is_reached_and_another_is_not() -> None:
    denied: list[str] = []
    async with http_server(OK) as port, http_server(OK) as other:
        policy = EgressPolicy(parse_hosts([f"127.0.0.1:{port}"]), lambda host, *_: denied.append(host))
        async with httpx.AsyncClient(transport=PolicyTransport(policy), trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "ok"
            for url in (f"http://127.0.0.1:{other}/", f"http://localhost:{port}/", "http://169.254.169.254/"):
                with pytest.raises(httpx.ConnectError, match="cannot be reached"):
                    await client.get(url)
    assert denied == ["127.0.0.1", "localhost", "169.254.169.254"]


async def test_a_redirect_leads_no_further() -> None:
    async with http_server(OK) as other:
        redirect = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{other}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with http_server(redirect) as port:
            policy = EgressPolicy(parse_hosts([f"127.0.0.1:{port}"]), lambda *_: None)
            transport = PolicyTransport(policy)
            async with httpx.AsyncClient(transport=transport, follow_redirects=True, trust_env=False) as client:
                with pytest.raises(httpx.ConnectError, match="cannot be reached"):
                    await client.get(f"http://127.0.0.1:{port}/")


async def unavailable(start: StartService, *urls: str, **headers: str) -> str:
    """Returns why the MCP servers at `urls`, none of which can be used, cannot be, from the notices."""
    https = [runner_pb2.HttpServer(url=url, headers=headers) for url in urls]
    servers = [runner_pb2.McpServer(name=f"far-{number}", http=http) for number, http in enumerate(https)]
    events = await (await start([turn("Done.")])).execute(agent=runner_pb2.Agent(name="tester", mcp_servers=servers))
    notices = [each.notice for each in events if each.HasField("notice")]
    assert [notice.code for notice in notices] == ["MCP_SERVER_UNAVAILABLE"] * len(urls)
    return " ".join(notice.text for notice in notices)


def redirecting(location: str) -> bytes:
    return f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("host", ["169.254.169.254", "127.0.0.2", "localhost"])
async def test_a_server_may_not_redirect_the_service_and_its_headers_to_another_host(
    start: StartService, host: str
) -> None:
    async with http_server(redirecting(f"http://{host}/mcp")) as port:
        text = await unavailable(start, f"http://127.0.0.1:{port}/mcp", Key="of the caller")
    assert f"redirects to http://{host}/mcp" in text


async def test_a_redirect_on_the_same_host_is_followed_and_its_address_is_checked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name leads to another address the second time."""
    found = iter(["127.0.0.1", "169.254.169.254"])

    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(found), 80))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with (
        http_server(redirecting("/elsewhere")) as port,
        httpx.AsyncClient(
            transport=PolicyTransport(EgressAddresses(McpAddresses(allows_private=True), None)),
            event_hooks={"response": [require_same_host]},
            follow_redirects=True,
        ) as client,
    ):
        with pytest.raises(httpx.ConnectError, match="metadata addresses are never allowed"):
            await client.get(f"http://server.example:{port}/mcp")


async def test_behind_a_proxy_of_the_environment_the_proxy_decides_where_a_server_is(
    start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even for a metadata address: the service connects to the proxy alone, which has rules of its own."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", address)
        monkeypatch.setenv("HTTP_PROXY", address)
        text = await unavailable(start, "https://169.254.169.254/mcp", "http://169.254.169.254/mcp")
    assert "403" in text
    assert {request.split(b" HTTP/1.1")[0] for request in asked} == {
        b"CONNECT 169.254.169.254:443",
        b"POST http://169.254.169.254/mcp",
    }


async def test_a_confined_execution_does_not_use_a_proxy_of_the_environment(
    start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    http = runner_pb2.HttpServer(url="http://127.0.0.1:2/mcp")
    agent = runner_pb2.Agent(name="tester", mcp_servers=[runner_pb2.McpServer(name="far", http=http)])
    level = runner_pb2.Confinement(network=event_pb2.NETWORK_CONFINEMENT_PROXY, allowed_hosts=["example.com"])
    events = await (await start([turn("Done.")])).execute(agent=agent, confinement=level)
    assert one(events, "network_denied").port == 2


@pytest.mark.parametrize("network", [event_pb2.NETWORK_CONFINEMENT_NONE, event_pb2.NETWORK_CONFINEMENT_PROXY])
async def test_a_server_that_the_level_closes_is_left_out_with_a_notice(
    start: StartService, network: "event_pb2.NetworkConfinement.ValueType"
) -> None:
    async with http_server(OK) as port:
        server = runner_pb2.McpServer(name="far", http=runner_pb2.HttpServer(url=f"http://127.0.0.1:{port}/mcp"))
        agent = runner_pb2.Agent(name="tester", instructions="Do it.", mcp_servers=[server])
        client = await start([turn("Done.")])
        events = await client.execute(agent=agent, confinement=runner_pb2.Confinement(network=network))
    notices = [each.notice for each in events if each.HasField("notice")]
    assert [notice.code for notice in notices] == ["MCP_SERVER_UNAVAILABLE"]
    if network == event_pb2.NETWORK_CONFINEMENT_PROXY:
        assert one(events, "network_denied").host == "127.0.0.1"
    else:
        assert "closes the network" in notices[0].text
