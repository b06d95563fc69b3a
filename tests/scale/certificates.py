"""Certificates of an authority that the test has made, for a Redis with TLS."""

from pathlib import Path
from typing import NamedTuple

import trustme


class Certificates(NamedTuple):
    """What a server with TLS and its clients are given."""

    arguments: tuple[str, ...]
    """Of the server."""
    ca_file: str
    other_ca_file: str
    """Of an authority that has not signed the server's certificate."""

    @property
    def variables(self) -> dict[str, str]:
        """The settings of a service that uses it."""
        return {"REDIS_TLS": "true", "REDIS_TLS_CA_FILE": self.ca_file}


def certificates(directory: Path, name: str) -> Certificates:
    """Makes a certificate for a host's name or address."""
    authority = trustme.CA()
    certificate = authority.issue_cert(name)
    ca, chain, key, other = (str(directory / each) for each in ("ca.pem", "cert.pem", "key.pem", "other.pem"))
    authority.cert_pem.write_to_path(ca)
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    trustme.CA().cert_pem.write_to_path(other)
    files = ("--tls-cert-file", chain, "--tls-key-file", key, "--tls-ca-cert-file", ca)
    return Certificates((*files, "--tls-auth-clients", "no", "--tls-replication", "yes"), ca, other)
