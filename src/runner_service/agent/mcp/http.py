"""Streamable HTTP transport for MCP servers, with bounded responses."""

import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
from mcp.client.streamable_http import streamable_http_client

from runner_service.agent.mcp.egress import PolicyTransport
from runner_service.agent.mcp.http_limits import HttpLimits
from runner_service.agent.mcp.placeholders import PLACEHOLDER
from runner_service.agent.mcp.redirects import require_same_host
from runner_service.agent.mcp.stdio import Streams
from runner_service.executors.egress.mcp_addresses import Addresses
from runner_service.v1 import agent_runner_pb2 as runner_pb2


@asynccontextmanager
async def http_server(
    http: runner_pb2.HttpServer,
    environment: Mapping[str, str],
    timeout_seconds: float,
    limits: HttpLimits,
    addresses: Addresses,
    *,
    may_use_proxy: bool,
) -> AsyncIterator[Streams]:
    """Opens the transport, whose responses are held to `limits`; `addresses` decides where it connects to.

    A response may take `timeout_seconds`. Where the environment names a proxy and it may be used, the proxy decides
    where it connects to.
    """
    # The size of a compressed response is unbounded: it is not requested, and refused.
    headers = {"Accept-Encoding": "identity"}
    headers |= {name: _fill_placeholders(value, environment) for name, value in http.headers.items()}
    query = {name: _fill_placeholders(value, environment) for name, value in http.query.items()}
    async with (
        httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds),
            event_hooks={"response": [require_same_host, limits.limit_response]},
            follow_redirects=True,
            transport=PolicyTransport(addresses),
            mounts=_proxy_mounts() if may_use_proxy else None,
            trust_env=False,
        ) as client,
        streamable_http_client(_with_query(http.url, query), http_client=client) as (read, write, _),
        limits.resolved(read) as resolved,
    ):
        yield Streams(resolved, write)


def _with_query(url: str, query: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    return urlunsplit(
        parts._replace(query=urlencode([*parse_qsl(parts.query, keep_blank_values=True), *query.items()]))
    )


def _fill_placeholders(value: str, environment: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda found: environment[found[1]], value)


def _proxy_mounts() -> Mapping[str, httpx.AsyncBaseTransport | None]:
    """Returns the transports of the proxies that the environment names. A proxy decides itself where it connects to."""
    proxies = urllib.request.getproxies()
    mounts: dict[str, httpx.AsyncBaseTransport | None] = {}
    for scheme in ("http", "https", "all"):
        if proxy := proxies.get(scheme):
            mounts[f"{scheme}://"] = httpx.AsyncHTTPTransport(proxy=proxy if "://" in proxy else f"http://{proxy}")
    if mounts:
        for host in proxies.get("no", "").split(","):
            if name := host.strip().lstrip("."):
                mounts[f"all://*{name}" if name != "*" else "all://"] = None
    return mounts
