"""Names in client certificates, as TLS has verified them.

Names are compared exactly, and alternative names by their type: a DNS name that is spelled like a URI is none.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

AuthContext = Mapping[str, Iterable[bytes]]

_PROPERTIES = {
    "subject": "x509_subject",
    "uri": "peer_uri",
    "dns": "peer_dns",
    "email": "peer_email",
    "ip": "peer_ip",
}
_SPIFFE = "spiffe://"
_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+")


class CertificateName(NamedTuple):
    """A name of a certificate: `subject` (RFC 2253), or a subject alternative name `uri`, `dns`, `email` or `ip`."""

    kind: str
    value: str


def valid_certificate_name(text: str) -> str:
    """Returns what `parse_certificate_name` parses. Raises ValueError."""
    parse_certificate_name(text)
    return text


def parse_certificate_name(text: str) -> CertificateName:
    """Parses `spiffe://…`, or a kind and a value such as `dns:worker.example`.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith(_SPIFFE):
        if not _SPIFFE_ID.fullmatch(text):
            raise ValueError("should be a whole SPIFFE id, spiffe://trust-domain/path, without patterns")
        return CertificateName("uri", text)
    kind, colon, value = text.partition(":")
    if not colon or kind not in _PROPERTIES or not value:
        raise ValueError("should be spiffe://…, or subject:, uri:, dns:, email: or ip: and the name")
    return CertificateName(kind, value)


def certificate_names(context: AuthContext) -> Iterator[CertificateName]:
    """Yields all names of the certificate of a connection; none when it showed no certificate."""
    for kind, name in _PROPERTIES.items():
        for value in context.get(name, ()):
            yield CertificateName(kind, value.decode(errors="replace"))
