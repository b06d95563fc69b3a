"""Envoy with deploy/envoy.yaml, of which only the addresses are changed, in front of replicas."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from tests.ports import free_port
from tests.proxies.proxies import envoy_arguments, running_proxy

from runner_service.client import RunnerClient

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "envoy.yaml"


@asynccontextmanager
async def running_envoy(replicas: Sequence[str], directory: Path) -> AsyncIterator[str]:
    """Runs Envoy in front of the replicas at these addresses, of which some may not be there yet; gives its own."""
    port = free_port()
    configuration = yaml.safe_load(CONFIGURATION.read_text())["static_resources"]
    (listener,), (cluster,) = configuration["listeners"], configuration["clusters"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    places = [each.rpartition(":") for each in replicas]
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(number)}}}}
        for host, _, number in places
    ]
    file = directory / "envoy.yaml"
    file.write_text(yaml.safe_dump({"static_resources": configuration}))
    async with running_proxy("envoy", envoy_arguments(file), port):
        address = f"127.0.0.1:{port}"
        async with RunnerClient(address) as client, asyncio.timeout(30):
            while not await _is_ready(client):  # Envoy has not asked the replicas yet
                await asyncio.sleep(0.05)
        yield address


async def _is_ready(client: RunnerClient) -> bool:
    try:
        return await client.is_ready()
    except OSError:
        return False
