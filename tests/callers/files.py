"""CALLERS_FILEs for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trustme
import yaml

from runner_service.api.callers.tokens import NewToken, new_token

Metadata = tuple[tuple[str, str], ...]

SEVERAL_TENANTS = {"SANDBOX_SCOPE": "session", "SANDBOX_CONFINEMENT": "workspace"}
"""What local mode needs for more than one tenant."""


class CallersYaml:
    """A CALLERS_FILE that a test changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"callers": [], "sockets": []}

    def add(self, name: str, tenant: str = "default", roles: Sequence[str] = ("run",), **more: Any) -> NewToken:
        """Adds a caller with a new token."""
        token = new_token()
        entry = {"name": name, "tenant": tenant, "roles": list(roles), **more}
        entry["tokens"] = [{"id": token.id, "sha256": token.sha256}]
        self.content["callers"].append(entry)
        self.write()
        return token

    def caller(self, name: str) -> Any:
        """Returns an entry, to be changed."""
        return next(each for each in self.content["callers"] if each["name"] == name)

    def remove(self, name: str) -> None:
        """Removes a caller."""
        self.content["callers"].remove(self.caller(name))
        self.write()

    def write(self) -> None:
        """Replaces the file."""
        following = self.path.with_suffix(".next")
        following.write_text(yaml.safe_dump(self.content))
        following.replace(self.path)


def bearer(token: NewToken | str) -> Metadata:
    """Returns the metadata of a call with a token."""
    return (("authorization", f"Bearer {token if isinstance(token, str) else token.token}"),)


def acting_for(tenant: str) -> Metadata:
    """Returns the metadata of a call for another tenant."""
    return (("x-runner-tenant", tenant),)


def certificate_listeners(directory: Path, authority: trustme.CA) -> dict[str, str]:
    """Writes a server's certificate; returns the variables of a listener for tokens and one for certificates."""
    server = authority.issue_cert("localhost", "127.0.0.1", "::1")
    certificate, key, ca = directory / "cert.pem", directory / "key.pem", directory / "ca.pem"
    certificate.write_bytes(b"".join(each.bytes() for each in server.cert_chain_pems))
    key.write_bytes(server.private_key_pem.bytes())
    key.chmod(0o600)
    authority.cert_pem.write_to_path(str(ca))
    return {
        "LISTEN_ADDRESS": "127.0.0.1:0,localhost:0",
        "TLS_CERT_FILE": str(certificate),
        "TLS_KEY_FILE": str(key),
        "TLS_CLIENT_CA_FILE": str(ca),
        "TLS_CLIENT_ADDRESSES": "localhost:0",
    }
