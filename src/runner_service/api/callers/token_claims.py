"""Reads a JSON Web Token before its signature is verified, strictly: nothing in it is believed yet."""

import base64
import json
import math
import re
import time
from typing import Any, NamedTuple

from runner_service.errors import CredentialExpiredError, UnauthenticatedError

LEEWAY_SECONDS = 30.0
MAX_LIFETIME_SECONDS = 24 * 3600.0
MAX_CHARACTERS = 16 * 1024
_MAX_NAME_CHARACTERS = 256
_MAX_TIME = 10**12
_PARTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_TYPES = {"JWT", "AT+JWT"}


class Unverified(NamedTuple):
    """The header and the claims of a token, well formed and in its time."""

    algorithm: str
    key_id: str
    issuer: str
    """The claim `iss`; empty without one."""
    subject: str
    expires_at: float
    """Unix time."""


def read_unverified(token: str) -> Unverified:
    """Reads header and claims.

    Raises:
        UnauthenticatedError: it is not a token that could be accepted.
        CredentialExpiredError: its time is over.
    """
    parts = _PARTS.fullmatch(token) if len(token) <= MAX_CHARACTERS else None
    if parts is None:
        raise _refused("it is not one")
    header, claims = _decode(parts[1]), _decode(parts[2])
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not isinstance(key_id, str) or not key_id or "crit" in header:
        raise _refused("its header should have alg and kid, and no crit")
    if str(header.get("typ", "JWT")).upper().removeprefix("APPLICATION/") not in _TYPES:
        raise _refused("its typ is not JWT")
    issuer, subject = claims.get("iss", ""), claims.get("sub")
    if not isinstance(issuer, str) or not isinstance(subject, str) or not _is_name(subject):
        raise _refused("it should have the claims iss and sub")
    return Unverified(algorithm, key_id, issuer, subject, _expiry(claims))


def _expiry(claims: dict[str, Any]) -> float:
    expires_at, not_before, now = _time(claims, "exp"), _time(claims, "nbf"), time.time()
    if expires_at is None:
        raise _refused("it should have the claim exp")
    if expires_at + LEEWAY_SECONDS <= now:
        raise CredentialExpiredError("the token has expired")
    if expires_at > now + MAX_LIFETIME_SECONDS + LEEWAY_SECONDS:
        raise _refused("it holds for more than 24 hours")
    if not_before is not None and not_before > now + LEEWAY_SECONDS:
        raise _refused("it does not hold yet")
    return expires_at


def _time(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_TIME or math.isnan(value):
        raise _refused(f"its claim {name} is not a time")
    return float(value)


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _MAX_NAME_CHARACTERS and text.isprintable()


def _decode(part: str) -> dict[str, Any]:
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        raise _refused("it is not JSON") from None
    if not isinstance(found, dict):
        raise _refused("it is not JSON")
    return found


def _refused(why: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"the token cannot be accepted: {why}")
