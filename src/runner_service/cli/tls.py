"""The CA certificates of this machine, and whether a server speaks TLS."""

import asyncio
import ssl
from pathlib import Path

from runner_service.addresses import Address, UnixAddress

_AUTHORITY_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, Alpine
)
_PATIENCE = 2.0


def system_ca_file() -> Path | None:
    """Returns the CA bundle (PEM) of this machine: SSL_CERT_FILE, or where systems keep it."""
    files = map(Path, (ssl.get_default_verify_paths().cafile or "", *_AUTHORITY_FILES))
    return next((file for file in files if file.is_file()), None)


async def speaks_tls(address: Address) -> bool | None:
    """Tells whether the server at `address` completes a TLS handshake. None: it does not answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is said to it
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(_PATIENCE):
            _, writer = await _connect(address, context)
    except ssl.SSLError:
        return False
    except (OSError, TimeoutError):
        return None
    writer.transport.abort()
    return True


async def _connect(address: Address, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, UnixAddress):
        return await asyncio.open_unix_connection(address.path, ssl=context, server_hostname="localhost")
    return await asyncio.open_connection(address.host, address.port, ssl=context)
