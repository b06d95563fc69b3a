"""The Stigmer daemon, where callers reach the service, and who they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner_service.addresses import overlap, parse_address
from runner_service.identity import DEFAULT_TENANT
from runner_service.settings.reading import Variables, by_mode, computed
from runner_service.settings.secret_str import SecretStr
from runner_service.settings.types import AddressListText, AddressText, NetworkList, TenantText, Token

DUMMY_API_KEY = "dummy-local-key"
"""What the daemon expects in local mode. Public, so not a secret."""

_DEFAULT_ADDRESS, _ADDRESS_BESIDE_DAEMON = "localhost:50051", "localhost:50052"


def _default_listen_address(data: Mapping[str, Any]) -> str:
    daemon = data["stigmer_backend_endpoint"]
    taken = daemon is not None and overlap(parse_address(daemon), parse_address(_DEFAULT_ADDRESS))
    return _ADDRESS_BESIDE_DAEMON if taken else _DEFAULT_ADDRESS


class CallerVariables(Variables):
    """Also which private networks MCP servers may be in."""

    stigmer_backend_endpoint: AddressText | None = None
    """The Stigmer daemon or cloud, `host:port`; TLS when the port is 443. Unset: there is none."""
    stigmer_tenant: TenantText = DEFAULT_TENANT
    """The tenant of what the daemon has, and of what comes through Temporal: others' ids are never looked up there."""
    stigmer_unattended: bool = True
    """Whether nobody can approve tool calls of executions of the Stigmer daemon, which knows no approvals: those that \
an approval policy asks about are skipped."""
    stigmer_api_key: SecretStr | None = by_mode(SecretStr(DUMMY_API_KEY), None)
    """The key for STIGMER_BACKEND_ENDPOINT. Required in cloud mode."""

    listen_address: AddressListText = computed(_default_listen_address)
    """Where to listen: `host:port`, `[IPv6]:port` or `unix:PATH`; port 0 takes a free one. Several are separated \
by commas. Beyond loopback it needs a token, CALLERS_FILE or TLS_CLIENT_CA_FILE. The default is \
localhost:50051, or localhost:50052 when the daemon is at 50051."""
    mcp_allowed_networks: NetworkList = ""
    """Private networks that HTTP MCP servers may be in when MODE is cloud, as `10.1.0.0/16`, separated by commas. \
Public addresses are always allowed, link-local and metadata addresses never; with MODE=local private ones are, too."""
    health_address: AddressText | None = None
    """Where else health can be asked for, in the form of LISTEN_ADDRESS: by probes, without TLS and token, over \
connections that callers cannot use up. Unset: only at LISTEN_ADDRESS."""
    auth_token: Token | None = None
    """The bearer token that callers must send. Health checks need none."""
    auth_token_file: Path | None = None
    """A file that holds the token instead; read again when it changes."""
    callers_file: Path | None = None
    """A YAML file that names callers, by tokens, issuers, certificates and sockets, with their tenants and roles \
(docs/security.md); read again when it changes. With it nobody is anonymous; AUTH_TOKEN is the operator's."""
    tls_cert_file: Path | None = None
    """The server's certificate chain, PEM. Turns TLS on."""
    tls_key_file: Path | None = None
    """The private key of TLS_CERT_FILE, PEM."""
    tls_client_ca_file: Path | None = None
    """CA certificates, PEM; one must have signed every caller's certificate (mTLS)."""
    tls_client_addresses: AddressListText | None = None
    """Which of LISTEN_ADDRESS ask for such a certificate, separated by commas; at the others a token is enough. \
Unset: all of them."""
