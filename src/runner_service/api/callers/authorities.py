"""Whether the certificate of an open connection still holds.

TLS verifies it at the handshake. Afterwards it can expire, and its authority can be taken out of TLS_CLIENT_CA_FILE,
which ends no connection by itself.
"""

import asyncio
import hashlib
import logging
import time
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from runner_service.api.callers.certificates import AuthContext
from runner_service.api.callers.file_versions import version_of
from runner_service.errors import CredentialExpiredError, UnauthenticatedError

logger = logging.getLogger(__name__)

_MAX_CACHED = 10_000
_MAX_CHAIN = 8


class Authorities:
    """The certificate authorities of callers. Belongs to the event loop."""

    def __init__(self, ca_file: Path) -> None:
        """Reads the file. Raises OSError, ValueError."""
        self._path = ca_file
        self._version = version_of(ca_file)
        self._trusted = x509.load_pem_x509_certificates(ca_file.read_bytes())
        self._ends: dict[bytes, float] = {}

    async def reload_if_changed(self) -> bool:
        """Reads the file again if it has changed. One that cannot be read leaves the earlier authorities in force."""
        version = await asyncio.to_thread(version_of, self._path)
        if version == self._version:
            return False
        self._version = version
        try:
            data = await asyncio.to_thread(self._path.read_bytes)
            self._trusted = x509.load_pem_x509_certificates(data)
        except (OSError, ValueError) as error:
            logger.warning("authorities_unusable path=%s error=%s", self._path, error)
            return False
        self._ends.clear()
        return True

    def until(self, context: AuthContext) -> float:
        """Returns when the certificate of a connection expires, as Unix time.

        Raises:
            UnauthenticatedError: none of the authorities has signed it, by way of its chain.
            CredentialExpiredError: it has expired.
        """
        pem = b"".join(context.get("x509_pem_cert_chain", ()) or context.get("x509_pem_cert", ()))
        digest = hashlib.sha256(pem).digest()
        end = self._ends.get(digest)
        if end is None:
            end = self._verified_end(x509.load_pem_x509_certificates(pem))
            if len(self._ends) >= _MAX_CACHED:
                self._ends.pop(next(iter(self._ends)))
            self._ends[digest] = end
        if end <= time.time():
            raise CredentialExpiredError("the client certificate has expired")
        return end

    def _verified_end(self, chain: list[x509.Certificate]) -> float:
        certificate, others = chain[0], chain[1:_MAX_CHAIN]
        while not any(_has_signed(each, certificate) for each in self._trusted):
            issuer = next((each for each in others if _has_signed(each, certificate)), None)
            if issuer is None:
                raise UnauthenticatedError("the authority of the client certificate is no longer trusted")
            others.remove(issuer)
            certificate = issuer
        return chain[0].not_valid_after_utc.timestamp()


def _has_signed(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
