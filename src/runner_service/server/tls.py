"""TLS of the server: credentials for gRPC and a context for HTTP, reloaded when the files change."""

import logging
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grpc

from runner_service.settings import Settings

logger = logging.getLogger(__name__)


class TlsError(Exception):
    """The certificate files cannot be used. The message says which and why."""


class _TlsFiles(NamedTuple):
    cert: Path
    key: Path
    client_ca: Path | None

    def present(self) -> list[Path]:
        return [path for path in self if path is not None]


def server_credentials(settings: Settings, *, client_certificates: bool) -> Callable[[], grpc.ServerCredentials] | None:
    """Returns a factory of server credentials, one set per address; None without TLS.

    With `client_certificates` a connection needs one that TLS_CLIENT_CA_FILE has signed.

    The factory reads the files. It raises TlsError if they cannot be read, are not PEM, or do not match each other.
    """
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    client_ca = settings.tls_client_ca_file if client_certificates else None
    return partial(_credentials, _TlsFiles(settings.tls_cert_file, settings.tls_key_file, client_ca))


def _credentials(files: _TlsFiles) -> grpc.ServerCredentials:
    reader = _CertificateReader(files)
    return grpc.dynamic_ssl_server_credentials(
        reader.read(),
        reader.read_if_changed,  # type: ignore[arg-type]  # None is documented, but not in the stubs
        require_client_authentication=files.client_ca is not None,
    )


class HttpTls:
    """TLS for the pages that the service has beside gRPC.

    New files are used from the second connection after the change on.
    """

    def __init__(self, files: _TlsFiles, *, needs_certificate: bool = True) -> None:
        self._files = files
        self._verify_mode = ssl.CERT_REQUIRED if needs_certificate else ssl.CERT_OPTIONAL
        _check_files(files)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._versions = _versions_of(files)
        self._load()

    def reload_if_changed(self) -> None:
        """Uses the files as they are now for new connections; what cannot be used is not. Blocks."""
        try:
            if (versions := _versions_of(self._files)) != self._versions:
                _check_files(self._files)
                self._load()
                self._versions = versions
        except (OSError, TlsError) as error:
            logger.warning("tls_files_unusable error=%s", error)

    def _load(self) -> None:
        self.context.load_cert_chain(self._files.cert, self._files.key)
        if self._files.client_ca is not None:
            self.context.load_verify_locations(self._files.client_ca)
            self.context.verify_mode = self._verify_mode


def http_tls(settings: Settings) -> HttpTls | None:
    """Returns the TLS of the service for HTTP, with client certificates if it has no tokens; None without. Blocks.

    Raises:
        TlsError: the files cannot be used.
    """
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    client_ca = None if settings.has_tokens() else settings.tls_client_ca_file
    return HttpTls(_TlsFiles(settings.tls_cert_file, settings.tls_key_file, client_ca))


def page_tls(settings: Settings) -> HttpTls | None:
    """Returns the TLS of the page: as `http_tls`, but where CALLERS_FILE knows certificates, browsers may show one.

    Blocks. Raises TlsError: the files cannot be used.
    """
    if settings.tls_cert_file is None or settings.tls_key_file is None or not settings.callers_file:
        return http_tls(settings)
    files = _TlsFiles(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    return HttpTls(files, needs_certificate=False)


class _CertificateReader:
    """Reads the files, at start and then at handshakes, in a thread of grpc."""

    def __init__(self, files: _TlsFiles) -> None:
        self._files = files
        self._versions: list[tuple[int, int]] = []

    def read(self) -> grpc.ServerCertificateConfiguration:
        versions = _versions_of(self._files)
        _check_files(self._files)
        cert, key = self._files.cert.read_bytes(), self._files.key.read_bytes()
        client_ca = self._files.client_ca.read_bytes() if self._files.client_ca is not None else None
        self._versions = versions
        return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca)

    def read_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns None, meaning unchanged, if the files have not changed or the new ones cannot be used."""
        try:
            return self.read() if _versions_of(self._files) != self._versions else None
        except (OSError, TlsError) as error:  # probably half written: the next handshake tries again
            logger.warning("tls_files_unusable error=%s", error)
            return None


def _versions_of(files: _TlsFiles) -> list[tuple[int, int]]:
    return [(status.st_mtime_ns, status.st_ino) for status in (path.stat() for path in files.present())]


def _check_files(files: _TlsFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key, password=lambda: "")  # otherwise OpenSSL prompts at the terminal
    except OSError as error:  # ssl.SSLError is one
        raise TlsError(f"TLS_CERT_FILE {files.cert} and TLS_KEY_FILE {files.key} cannot be used: {error}") from error
    if files.client_ca is None:
        return
    try:
        context.load_verify_locations(files.client_ca)
    except OSError as error:
        raise TlsError(f"TLS_CLIENT_CA_FILE {files.client_ca} cannot be used: {error}") from error
