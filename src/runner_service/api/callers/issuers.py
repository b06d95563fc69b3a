"""Callers by JSON Web Tokens, whose signatures PyJWT verifies."""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import jwt

from runner_service.api.callers.certificates import parse_certificate_name
from runner_service.api.callers.issuers_file import IssuerEntry
from runner_service.api.callers.key_sets import KeySet
from runner_service.api.callers.token_claims import LEEWAY_SECONDS, Unverified, read_unverified
from runner_service.errors import CredentialExpiredError, UnauthenticatedError, UnavailableError
from runner_service.identity import Caller

_MAX_CACHED = 10_000
_LOOP_SHARE = 8
"""Verifying tokens that are not known takes at most this part of the event loop's time."""

_MAX_WAIT_SECONDS = 2.0
_MAX_WAITING = 100


class Issuers:
    """Accepts tokens of the issuers of CALLERS_FILE. Belongs to the event loop."""

    def __init__(self) -> None:
        self._entries: Sequence[IssuerEntry] = ()
        self._key_sets: dict[str, KeySet] = {}
        self._accepted: dict[bytes, Caller] = {}
        self._generation: tuple[int, ...] = ()
        self._verifying = asyncio.Lock()
        self._waiting = 0

    def configure(self, entries: Sequence[IssuerEntry]) -> None:
        """Takes the issuers of the file; keys that are known already stay known."""
        self._key_sets = {
            _source(each): self._key_sets.get(_source(each))
            or KeySet(Path(each.jwks_file) if each.jwks_file else each.jwks_url or "", each.algorithms)
            for each in entries
        }
        self._entries = entries
        self._accepted.clear()

    async def refresh_due(self) -> bool:
        """Reads the keys whose time has come. Returns whether any have changed."""
        await asyncio.gather(*(each.refresh_if_due() for each in self._key_sets.values()))
        generation = tuple(each.generation for each in self._key_sets.values())
        is_changed = generation != self._generation
        if is_changed:
            self._generation = generation
            self._accepted.clear()
        return is_changed

    def ages(self) -> Mapping[str, float]:
        """Returns for how many seconds the keys of each issuer could not be read anew. For any thread."""
        pairs = [(each.name, self._key_sets.get(_source(each))) for each in self._entries]
        return {name: keys.unread_seconds for name, keys in pairs if keys}

    async def admit(self, token: str) -> None:
        """Verifies a token that is not known, within a share of the event loop's time.

        Raises:
            UnauthenticatedError: it cannot be accepted.
            UnavailableError: the issuer's keys are not there, or too many tokens wait.
        """
        if _hash(token) in self._accepted:
            return
        unverified = read_unverified(token)
        entry = self._entry(unverified)
        keys = self._key_sets[_source(entry)]
        await keys.find(unverified.key_id, unverified.algorithm)
        if not keys.is_usable:
            raise UnavailableError(f"the keys of {entry.name} cannot be read; call again", retry_delay=10.0)
        if self._waiting >= _MAX_WAITING:  # more would only make the wait longer, and each of them cost a timer
            raise _too_many()
        self._waiting += 1
        try:
            async with asyncio.timeout(_MAX_WAIT_SECONDS):
                await self._verifying.acquire()
        except TimeoutError:
            raise _too_many() from None
        finally:
            self._waiting -= 1
        started = time.thread_time()  # not what passes while others have the processor
        try:
            self.caller(token)
        finally:
            spent = time.thread_time() - started
            asyncio.get_running_loop().call_later((_LOOP_SHARE - 1) * spent, self._verifying.release)

    def caller(self, token: str) -> Caller:
        """Returns whose token it is.

        Raises:
            UnauthenticatedError: it cannot be accepted.
        """
        digest = _hash(token)
        found = self._accepted.get(digest)
        if found is None:
            found = self._verify(token)
            if len(self._accepted) >= _MAX_CACHED:
                self._accepted.pop(next(iter(self._accepted)))
            self._accepted[digest] = found
        if found.until <= time.time():
            raise CredentialExpiredError(f"the token of {found.name} has expired")
        return found

    def _verify(self, token: str) -> Caller:
        unverified = read_unverified(token)
        entry = self._entry(unverified)
        key = self._key_sets[_source(entry)].keys.get((unverified.key_id, unverified.algorithm))
        if key is None or not self._key_sets[_source(entry)].is_usable:
            raise UnauthenticatedError(f"the token's key is not one of {entry.name}")
        claims = None
        with suppress(jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            claims = jwt.decode(
                token,
                key,
                algorithms=[unverified.algorithm],
                audience=entry.audience,
                issuer=entry.issuer or None,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "sub", "aud"]},
            )
        if claims is None:
            raise UnauthenticatedError("the token cannot be accepted: its signature, audience or time is wrong")
        for rule in entry.rules:
            if rule.matches(claims) and (tenant := rule.tenant_of(claims)):
                until = unverified.expires_at + LEEWAY_SECONDS
                return Caller(
                    unverified.subject,
                    tenant,
                    tenant,
                    frozenset(rule.roles),
                    frozenset(rule.acts_for),
                    until,
                    frozenset(map(parse_certificate_name, rule.with_certificates)),
                )
        raise UnauthenticatedError("the token's claims match no rule of CALLERS_FILE")

    def _entry(self, unverified: Unverified) -> IssuerEntry:
        for entry in self._entries:
            is_svid = entry.trust_domain and unverified.subject.startswith(f"spiffe://{entry.trust_domain}/")
            if (entry.issuer and entry.issuer == unverified.issuer) or is_svid:
                if unverified.algorithm not in entry.algorithms:
                    raise UnauthenticatedError(f"the token's algorithm is not one of {entry.name}")
                return entry
        raise UnauthenticatedError("the token's issuer is not in CALLERS_FILE")


def _too_many() -> UnavailableError:
    return UnavailableError("too many tokens are to be verified; call again", retry_delay=2.0)


def _source(entry: IssuerEntry) -> str:
    return f"{entry.jwks_file or entry.jwks_url} {' '.join(entry.algorithms)}"


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
