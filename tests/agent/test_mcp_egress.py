"""HTTP MCP servers of a confined execution: the service connects only to where its commands may."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from tests.running import StartService, one, turn

from runner_service.agent.mcp.egress import PolicyTransport
from runner_service.allowed_hosts import parse_hosts
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
