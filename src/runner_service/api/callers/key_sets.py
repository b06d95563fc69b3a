"""The public keys of issuers, from a file or a URL (RFC 7517)."""

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from jwt.algorithms import get_default_algorithms

from runner_service.api.callers.file_versions import Version, version_of
from runner_service.errors import text_of

logger = logging.getLogger(__name__)

REFRESH_INTERVAL_SECONDS = 300.0
UNKNOWN_KEY_INTERVAL_SECONDS = 10.0
MAX_OUTAGE_SECONDS = 24 * 3600.0
_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 64 * 1024
_MAX_KEYS = 100
_MIN_RSA_BITS = 2048
_USES = {"", "sig", "jwt-svid"}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}

Keys = Mapping[tuple[str, str], Any]
"""Public keys by `kid` and algorithm."""


class KeySet:
    """The keys of one issuer. Belongs to the event loop."""

    def __init__(self, source: Path | str, algorithms: Sequence[str]) -> None:
        self._source = source
        self._algorithms = algorithms
        self._file_version: Version | None = None
        self._lock = asyncio.Lock()
        self._attempted_at = -MAX_OUTAGE_SECONDS
        self._wanted_since = time.time()
        self.keys: Keys = {}
        self.read_at = 0.0
        """Unix time of the last read that succeeded; 0 before it."""
        self.generation = 0
        """Changes with the keys."""

    @property
    def is_usable(self) -> bool:
        """False before the first read, and when the issuer has not answered for a day."""
        return bool(self.read_at) and (isinstance(self._source, Path) or self.age_seconds < MAX_OUTAGE_SECONDS)

    @property
    def age_seconds(self) -> float:
        """How old the keys are."""
        return time.time() - self.read_at

    @property
    def unread_seconds(self) -> float:
        """How long ago they were last read, or first wanted; 0 for a file that was read, which is read on a change."""
        if isinstance(self._source, Path) and self.read_at:
            return 0.0
        return time.time() - (self.read_at or self._wanted_since)

    async def refresh_if_due(self) -> None:
        """Reads a file that has changed, or a URL whose time has come."""
        if isinstance(self._source, Path):
            version = await asyncio.to_thread(version_of, self._source)
            if version != self._file_version or not self.read_at:
                self._file_version = version
                await self._refresh()
        else:
            interval = REFRESH_INTERVAL_SECONDS if self.read_at else UNKNOWN_KEY_INTERVAL_SECONDS
            await self._refresh_unless_recent(interval)

    async def find(self, key_id: str, algorithm: str) -> Any:
        """Returns a key, after another read if it is not known and the last attempt is not recent; None without one."""
        if (key_id, algorithm) not in self.keys:
            if isinstance(self._source, Path):
                await self.refresh_if_due()
            else:
                await self._refresh_unless_recent(UNKNOWN_KEY_INTERVAL_SECONDS)
        return self.keys.get((key_id, algorithm))

    async def _refresh_unless_recent(self, interval_seconds: float) -> None:
        """Reads at most once in `interval_seconds`, however many ask, and whether or not it succeeds."""
        async with self._lock:
            if time.monotonic() - self._attempted_at >= interval_seconds:
                self._attempted_at = time.monotonic()
                await self._refresh()

    async def _refresh(self) -> None:
        try:
            data = await self._read()
            keys = await asyncio.to_thread(parse_keys, data, self._algorithms)
        except (OSError, ValueError, aiohttp.ClientError, TimeoutError) as error:
            logger.warning("keys_unreadable source=%s reason=%s", self._source, text_of(error))
            return
        self.read_at = time.time()
        if keys.keys() != self.keys.keys() or any(_bytes(keys[each]) != _bytes(self.keys[each]) for each in keys):
            self.generation += 1
            logger.info("keys_read source=%s keys=%d", self._source, len(keys))
        self.keys = keys

    async def _read(self) -> bytes:
        if isinstance(self._source, Path):
            return await asyncio.to_thread(self._source.read_bytes)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self._source, allow_redirects=False) as response,
        ):
            if response.status != 200:  # noqa: PLR2004  # HTTP's own
                raise ValueError(f"HTTP {response.status}")
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_BYTES} bytes")
            return bytes(data)


def parse_keys(data: bytes, algorithms: Sequence[str]) -> Keys:
    """Returns the keys of a set that fit the algorithms; others are left out.

    Raises:
        ValueError: it is not a key set.
    """
    if len(data) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES} bytes")
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise ValueError(f"should be an object with at most {_MAX_KEYS} `keys`")
    known = get_default_algorithms()
    keys: dict[tuple[str, str], Any] = {}
    for entry in entries:
        for algorithm in algorithms:
            if isinstance(entry, dict) and _fits(entry, algorithm) and (entry["kid"], algorithm) not in keys:
                key = _public_key(known[algorithm], entry)
                if key is not None:
                    keys[entry["kid"], algorithm] = key
    return keys


def _fits(entry: dict[str, Any], algorithm: str) -> bool:
    kid, use = entry.get("kid"), entry.get("use", "")
    if (
        not isinstance(kid, str)
        or not kid
        or use not in _USES
        or "d" in entry
        or entry.get("alg", algorithm) != algorithm
    ):
        return False
    if algorithm.startswith("ES"):
        return entry.get("kty") == "EC" and entry.get("crv") == _CURVES[algorithm]
    return bool(entry.get("kty") == ("OKP" if algorithm == "EdDSA" else "RSA"))


def _public_key(algorithm: Any, entry: dict[str, Any]) -> Any:
    try:
        key = algorithm.from_jwk(entry)
    except Exception:  # noqa: BLE001  # whatever a library makes of a key that is none
        return None
    return None if getattr(key, "key_size", _MIN_RSA_BITS) < _MIN_RSA_BITS and entry["kty"] == "RSA" else key


def _bytes(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415  # rarely needed

    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found
