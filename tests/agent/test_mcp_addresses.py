"""Where HTTP MCP servers may be."""

import ipaddress
import socket

import pytest
from tests.agent.capabilities import agent, notices
from tests.running import StartService, turn

from runner_service.executors.egress.mcp_addresses import EgressAddresses, McpAddresses
from runner_service.executors.egress.policy import EgressDeniedError
from runner_service.v1 import agent_runner_pb2 as runner_pb2

LOCAL = McpAddresses(allows_private=True)
CLOUD = McpAddresses(allows_private=False, networks=[ipaddress.ip_network("10.1.0.0/16")])
NEVER = [
    "169.254.169.254",
    "169.254.1.1",
    "fe80::1",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "224.0.0.1",
    "0.0.0.0",  # refused
    "::",
]


@pytest.mark.parametrize("addresses", [LOCAL, CLOUD])
@pytest.mark.parametrize("host", NEVER)
async def test_link_local_and_metadata_addresses_are_refused_in_both_modes(addresses: McpAddresses, host: str) -> None:
    with pytest.raises(EgressDeniedError):
        await addresses.addresses(host, 80)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "192.168.1.1", "10.2.0.1", "fd12::1", "localhost", "LOCALHOST."])
async def test_private_addresses_are_for_local_mode(host: str) -> None:
    assert await LOCAL.addresses(host, 80)
    with pytest.raises(EgressDeniedError, match="MCP_ALLOWED_NETWORKS"):
        await CLOUD.addresses(host, 80)


async def test_cloud_mode_allows_public_addresses_and_the_networks_that_are_named() -> None:
    assert await CLOUD.addresses("10.1.2.3", 80) == ["10.1.2.3"]
    assert await CLOUD.addresses("1.1.1.1", 443) == ["1.1.1.1"]
    assert await CLOUD.addresses("[2606:4700:4700::1111]", 443) == ["2606:4700:4700::1111"]


async def test_the_services_own_ports_are_refused_on_this_machine_alone() -> None:
    addresses = McpAddresses(allows_private=True)
    addresses.own_ports = {50051}
    for own in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        with pytest.raises(EgressDeniedError, match="the service itself"):
            await addresses.addresses(own, 50051)
    assert await addresses.addresses("127.0.0.1", 50052) == ["127.0.0.1"]
    assert await addresses.addresses("192.168.77.77", 50051) == ["192.168.77.77"]


async def test_a_name_is_looked_up_once_and_only_its_allowed_addresses_are_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up: list[str] = []

    def resolve(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        looked_up.append(host)
        found = ["169.254.169.254", "1.1.1.1", "127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 80)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert await EgressAddresses(CLOUD, None).addresses("rebinding.example", 80) == ["1.1.1.1"]
    assert looked_up == ["rebinding.example"]


async def test_an_agent_cannot_take_the_service_itself_for_an_mcp_server(start: StartService) -> None:
    client = await start([turn("Done.")])
    own = runner_pb2.McpServer(name="own", http=runner_pb2.HttpServer(url=f"http://{client.service.address}/mcp"))
    metadata = runner_pb2.McpServer(name="meta", http=runner_pb2.HttpServer(url="http://169.254.169.254/mcp"))
    events = await client.execute(agent=agent(mcp_servers=[own, metadata]))
    texts = " ".join(text for code, text in notices(events) if code == "MCP_SERVER_UNAVAILABLE")
    assert "this is the service itself" in texts
    assert "metadata addresses are never allowed" in texts
