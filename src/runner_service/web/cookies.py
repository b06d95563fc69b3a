"""The cookie in which a browser keeps a caller's token.

The token itself must not be in it: browsers send cookies of `localhost` to every port, and so to other services. It is
sealed with a key that the event log keeps, so that the cookie outlives a restart of the service.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

MAX_AGE_SECONDS = 12 * 3600

_NONCE_BYTES = 16
_MAC_BYTES = 32
_EXPIRY_BYTES = 8
_MAX_TOKEN_BYTES = 4096
_BLOCK_BYTES = 32


class CookieSeal:
    """Seals tokens, and opens what it has sealed."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._stream_key = hmac.digest(key, b"runner-service web cookie: encryption", "sha256")
        self._mac_key = hmac.digest(key, b"runner-service web cookie: authentication", "sha256")

    def seal(self, token: bytes) -> str:
        """Returns the value of a cookie for a token of at most 4 KiB."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        expiry = int(self._clock() + MAX_AGE_SECONDS).to_bytes(_EXPIRY_BYTES)
        sealed = nonce + expiry + self._xor(nonce, token[:_MAX_TOKEN_BYTES])
        return base64.urlsafe_b64encode(sealed + hmac.digest(self._mac_key, sealed, "sha256")).decode()

    def open(self, cookie: str) -> bytes | None:
        """Returns the token in a cookie; None if it is not one of ours, or too old."""
        try:
            value = base64.b64decode(cookie.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            return None
        sealed, mac = value[:-_MAC_BYTES], value[-_MAC_BYTES:]
        if len(sealed) < _NONCE_BYTES + _EXPIRY_BYTES:
            return None
        if not hmac.compare_digest(mac, hmac.digest(self._mac_key, sealed, "sha256")):
            return None
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        if int.from_bytes(rest[:_EXPIRY_BYTES]) < self._clock():
            return None
        return self._xor(nonce, rest[_EXPIRY_BYTES:])

    def _xor(self, nonce: bytes, data: bytes) -> bytes:
        """Encrypts or decrypts: HMAC-SHA256 in counter mode."""
        blocks = range(-(-len(data) // _BLOCK_BYTES))
        stream = b"".join(hmac.digest(self._stream_key, nonce + block.to_bytes(4), hashlib.sha256) for block in blocks)
        return bytes(one ^ other for one, other in zip(data, stream, strict=False))
