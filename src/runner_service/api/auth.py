"""Who may call: whoever sends the bearer token, where there is one. Certificates of callers are checked by TLS."""

import hmac
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from runner_service.errors import UnauthenticatedError
from runner_service.settings import Settings

logger = logging.getLogger(__name__)

TokenSource = Callable[[], bytes]
Metadata = Iterable[tuple[str, str | bytes]]

_LOOK_EVERY = 1.0  # seconds between two looks at the token's file


class Authentication:
    """Checks the token of calls. Without `token`, everybody may call."""

    def __init__(self, token: TokenSource | None) -> None:
        self._token = token

    def check(self, metadata: Metadata) -> None:
        """Lets a call with this metadata in.

        Raises:
            UnauthenticatedError: it has no token, or a wrong one.
        """
        if self._token is None:
            return
        presented = _bearer_token(metadata)
        if presented is None:
            raise UnauthenticatedError("no token: send the metadata `authorization: Bearer <token>`")
        if not hmac.compare_digest(presented, self._token()):
            raise UnauthenticatedError("wrong token")


def authentication(settings: Settings) -> Authentication:
    """Returns the check that AUTH_TOKEN or AUTH_TOKEN_FILE ask for. Reads the file.

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
    """The token in a file, read again when the file has changed. One that then cannot be read changes nothing.

    Looks at the file at most once a second, and reads it only when its time, size or inode is another: microseconds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = _version(path)
        self._token = path.read_bytes().strip()
        self._looked = time.monotonic()

    def __call__(self) -> bytes:
        """Returns the token that is in force."""
        if time.monotonic() - self._looked >= _LOOK_EVERY:
            self._looked = time.monotonic()
            self._look()
        return self._token

    def _look(self) -> None:
        try:
            version = _version(self._path)
            if version == self._version:
                return
            token = self._path.read_bytes().strip()
        except OSError as error:
            logger.warning("token_file_unreadable path=%s error=%s", self._path, error.strerror)
            return
        if not token:  # being written, or a mistake: an empty token must never be one that opens
            logger.warning("token_file_empty path=%s", self._path)
            return
        self._version, self._token = version, token
        logger.info("token_file_read path=%s", self._path)


def _version(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)  # noqa: PTH116  # on the way of calls, and half the cost of Path.stat
    return status.st_mtime_ns, status.st_size, status.st_ino


def _bearer_token(metadata: Metadata) -> bytes | None:
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer" and token.strip():
                return token.strip().encode()
    return None
