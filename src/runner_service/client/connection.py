"""The connection of a client: its channel, and the metadata that is sent with each call."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import grpc

from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)

EXECUTION_ID_KEY = "x-execution-id"
"""The metadata by which a proxy sends all calls about an execution to the same replica."""
_HEADER_VALUE = re.compile(r"[A-Za-z0-9._-]{1,128}")

Token = str | Callable[[], str | None]
"""A bearer token, or what returns the one to send now."""


class ClientCertificate(NamedTuple):
    """A client's private key and certificate chain, PEM."""

    key: bytes
    chain: bytes


class Connection:
    """Calls the service at `address`, with a token, for a tenant, and over TLS if `ca` is given."""

    def __init__(
        self,
        address: str,
        token: Token | None,
        tenant: str,
        ca: bytes | None,
        certificate: ClientCertificate | None,
    ) -> None:
        self.address = address
        self._token = token
        self._tenant = tenant
        self._ca = ca
        self._certificate = certificate

    @property
    def can_renew(self) -> bool:
        """Whether each call asks for the token anew."""
        return callable(self._token)

    def open(self) -> None:
        """Connects to `address`, in the background."""
        if self._ca is None:
            self.channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        else:
            key, chain = self._certificate or (None, None)
            credentials = grpc.ssl_channel_credentials(self._ca or None, key, chain)
            self.channel = grpc.aio.secure_channel(self.address, credentials, options=_OPTIONS)
        self.stub = runner_grpc.AgentRunnerServiceStub(self.channel)

    async def close(self) -> None:
        """Cancels what is called, and disconnects."""
        await self.channel.close()

    async def move_to(self, address: str) -> None:
        """Calls another address from now on; calls to the old address are cancelled."""
        before, self.address = self.channel, address
        self.open()
        await before.close()

    def metadata(self, execution_id: str = "") -> tuple[tuple[str, str], ...]:
        """Returns what is sent with a call. A proxy may send all calls about an execution to the same replica."""
        token = self._token() if callable(self._token) else self._token
        values = {
            "authorization": f"Bearer {token}" if token else "",
            "x-runner-tenant": self._tenant,
            EXECUTION_ID_KEY: execution_id if _HEADER_VALUE.fullmatch(execution_id) else "",
        }
        return tuple((name, value) for name, value in values.items() if value)


def token_from_file(path: Path | str) -> Callable[[], str]:
    """Returns a function that reads a token from a file, which may be replaced at any time. It raises OSError."""
    return lambda: Path(path).read_text().strip()
