"""Bearer token authentication. Client certificates are verified by TLS."""

import hmac
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from runner_service.errors import UnauthenticatedError
from runner_service.identity import OPERATOR, Caller
from runner_service.settings import Settings

logger = logging.getLogger(__name__)

TokenSource = Callable[[], bytes]
Metadata = Iterable[tuple[str, str | bytes]]

_FILE_CHECK_INTERVAL_SECONDS = 1.0


class Authentication:
    """Finds out who calls. Without `token`, everybody is the operator."""

    def __init__(self, token: TokenSource | None) -> None:
        self._token = token
        self._seen = token() if token else b""

    def has_other_token(self) -> bool:
        """Tells whether the token is another one than at the last call."""
        before, self._seen = self._seen, self._token() if self._token else b""
        return before != self._seen

    def caller(self, metadata: Metadata) -> Caller:
        """Returns the caller that a call's metadata names.

        Raises:
            UnauthenticatedError: the token is missing or wrong.
        """
        if self._token is None:
            return OPERATOR
        presented = bearer_token(metadata)
        if presented is None:
            raise UnauthenticatedError("no token: send the metadata `authorization: Bearer <token>`")
        if not self.is_token(presented):
            raise UnauthenticatedError("wrong token")
        return OPERATOR

    def is_token(self, presented: bytes) -> bool:
        """Tells whether this is the token of the operator."""
        return self._token is not None and hmac.compare_digest(presented, self._token())


def authentication(settings: Settings) -> Authentication:
    """Returns the authentication that AUTH_TOKEN or AUTH_TOKEN_FILE configure. Reads the file.

    Raises:
        OSError: the file cannot be read.
    """
    if settings.auth_token_file is not None:
        return Authentication(TokenFile(settings.auth_token_file))
    if settings.auth_token is not None:
        token = settings.auth_token.get_secret_value().encode()
        return Authentication(lambda: token)
    return Authentication(None)


class TokenFile:
    """A token read from a file, reloaded when the file changes. An unreadable file leaves the token in force.

    Stats the file at most once a second, and reads it only if its mtime, size or inode has changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = _version(path)
        self._token = path.read_bytes().strip()
        self._checked_at = time.monotonic()

    def __call__(self) -> bytes:
        """Returns the current token."""
        if time.monotonic() - self._checked_at >= _FILE_CHECK_INTERVAL_SECONDS:
            self._checked_at = time.monotonic()
            self._reload_if_changed()
        return self._token

    def _reload_if_changed(self) -> None:
        try:
            version = _version(self._path)
            if version == self._version:
                return
            token = self._path.read_bytes().strip()
        except OSError as error:
            logger.warning("token_file_unreadable path=%s error=%s", self._path, error.strerror)
            return
        if not token:  # being written, or a mistake: an empty token must never grant access
            logger.warning("token_file_empty path=%s", self._path)
            return
        self._version, self._token = version, token
        logger.info("token_file_read path=%s", self._path)


def _version(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)  # noqa: PTH116  # on the path of every call; half the cost of Path.stat
    return status.st_mtime_ns, status.st_size, status.st_ino


def bearer_token(metadata: Metadata) -> bytes | None:
    """Returns the token that a call's metadata holds, if any."""
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer" and token.strip():
                return token.strip().encode()
    return None
