"""Connections of the service itself for an execution: to addresses that a policy allows, and nowhere else."""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from runner_service.executors.egress.mcp_addresses import Addresses
from runner_service.executors.egress.policy import EgressDeniedError


class PolicyTransport(httpx.AsyncHTTPTransport):
    """A transport that connects to the very addresses that a policy has looked up, for each redirect anew."""

    def __init__(self, policy: Addresses) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(), network_backend=_PolicyBackend(policy)
        )


class _PolicyBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, policy: Addresses) -> None:
        self._policy = policy
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # as httpcore has it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._policy.addresses(host, port)
        except (EgressDeniedError, OSError) as error:
            raise httpcore.ConnectError(str(error)) from error
        failure = httpcore.ConnectError(f"{host}:{port} does not answer")
        for address in addresses:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = httpcore.ConnectError(str(error))
        raise failure

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)
