"""Named tokens: `rst_`, an id of 9 characters, a secret of 43, and 6 of CRC-32, all base62.

The id is what logs and CALLERS_FILE show. The checksum tells a mistyped token without a service. The secret has 256
random bits, so a plain SHA-256 of the whole token is all that has to be stored.
"""

import hashlib
import re
import secrets
import zlib
from typing import NamedTuple

PREFIX = "rst_"
_ID_CHARACTERS, _SECRET_CHARACTERS, _CHECK_CHARACTERS = 9, 43, 6
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TOKEN = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_ID_CHARACTERS + _SECRET_CHARACTERS + _CHECK_CHARACTERS}}}")


class NewToken(NamedTuple):
    """A token, its id, and the SHA-256 that CALLERS_FILE holds, in hex."""

    token: str
    id: str
    sha256: str


def new_token() -> NewToken:
    """Returns a new random token."""
    token_id = "".join(secrets.choice(_DIGITS) for _ in range(_ID_CHARACTERS))
    secret = "".join(secrets.choice(_DIGITS) for _ in range(_SECRET_CHARACTERS))
    body = f"{PREFIX}{token_id}{secret}"
    token = f"{body}{_checksum(body)}"
    return NewToken(token, token_id, token_hash(token).hex())


def token_hash(token: str) -> bytes:
    """Returns the SHA-256 of a token."""
    return hashlib.sha256(token.encode()).digest()


def token_id(token: str) -> str | None:
    """Returns the id of a token of ours; None when it is not one, or was mistyped or cut."""
    if not _TOKEN.fullmatch(token):
        return None
    body, checksum = token[:-_CHECK_CHARACTERS], token[-_CHECK_CHARACTERS:]
    return token[len(PREFIX) :][:_ID_CHARACTERS] if checksum == _checksum(body) else None


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK_CHARACTERS):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
