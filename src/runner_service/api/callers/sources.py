"""What names the caller at each kind of listener."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from runner_service.api.auth import Authentication, bearer_token
from runner_service.api.callers.certificates import AuthContext, certificate_names
from runner_service.errors import UnauthenticatedError
from runner_service.identity import OPERATOR, Caller

if TYPE_CHECKING:
    from runner_service.api.callers.authorities import Authorities
    from runner_service.api.callers.directory import Directory
    from runner_service.api.callers.issuers import Issuers

Metadata = Iterable[tuple[str, str | bytes]]


class Callers:
    """Everybody who may call. `directory` is None without CALLERS_FILE: then AUTH_TOKEN alone decides."""

    def __init__(self, operator: Authentication, directory: "Directory | None" = None) -> None:
        self.operator = operator
        self.directory = directory
        self.issuers: Issuers | None = None
        """Those of the directory."""
        self.authorities: Authorities | None = None
        """Those of client certificates."""

    async def prepare(self, metadata: Metadata) -> None:
        """Verifies a signed token that is not known yet; from then on `by_token` is cheap.

        Raises:
            CallError: UNAUTHENTICATED, or UNAVAILABLE when that cannot be told now.
        """
        token = bearer_token(metadata) if self.issuers else None
        if self.issuers and token and _is_signed(token) and not self.operator.is_token(token):
            await self.issuers.admit(token.decode())

    def by_token(self, metadata: Metadata) -> Caller:
        """Returns who sends this metadata, where a token is all that can be shown.

        Raises:
            UnauthenticatedError: nobody who is known, or the token counts only with a client certificate.
        """
        caller = self.by_token_with_certificate(metadata)
        if caller.with_certificates:
            raise UnauthenticatedError(f"the token of {caller.name} counts only with its client certificate")
        return caller

    def by_token_with_certificate(self, metadata: Metadata) -> Caller:
        """Returns who sends this metadata; call `confirm` before it counts.

        Raises:
            UnauthenticatedError: nobody who is known.
        """
        if self.directory is None:
            return self.operator.caller(metadata)
        token = bearer_token(metadata)
        if token is None:
            raise UnauthenticatedError("no token: send the metadata `authorization: Bearer <token>`")
        if self.operator.is_token(token):
            return OPERATOR
        if self.issuers and _is_signed(token):
            return self.issuers.caller(token.decode())
        return self.directory.by_token(token.decode())

    def confirm(self, caller: Caller, context: AuthContext) -> Caller:
        """Checks the certificate that a caller's token needs, if it needs one.

        Raises:
            UnauthenticatedError: the connection has shown another one, or one that no longer holds.
        """
        if not caller.with_certificates:
            return caller
        if caller.with_certificates.isdisjoint(certificate_names(context)):
            raise UnauthenticatedError(f"the token of {caller.name} counts only with its client certificate")
        return self.until_certificate_ends(caller, context)

    def until_certificate_ends(self, caller: Caller, context: AuthContext) -> Caller:
        """Returns the caller, for as long as its certificate holds. Raises UnauthenticatedError: it does not."""
        return replace(caller, until=min(caller.until, self.authorities.until(context))) if self.authorities else caller


def _is_signed(token: bytes) -> bool:
    """Tells a JSON Web Token, of three parts, from a named one."""
    return token.count(b".") == 2  # noqa: PLR2004  # three parts


class CallerSource(Protocol):
    """How one listener recognises callers."""

    async def prepare(self, metadata: Metadata) -> None:
        """Does what takes time, before `from_metadata`. Raises CallError."""

    def from_metadata(self, metadata: Metadata) -> Caller | None:
        """Returns the caller, before anything of the request is read; None when its certificate decides."""

    def from_certificate(self, context: AuthContext) -> Caller:
        """Returns whose certificate it is. Raises UnauthenticatedError."""

    def confirm(self, caller: Caller, context: AuthContext) -> Caller:
        """Checks what a caller of `from_metadata` has to show besides. Raises UnauthenticatedError."""


class TokenSource:
    """Recognises callers by their token."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    async def prepare(self, metadata: Metadata) -> None:
        """Implements `CallerSource`."""
        await self._callers.prepare(metadata)

    def from_metadata(self, metadata: Metadata) -> Caller | None:
        """Implements `CallerSource`."""
        return self._callers.by_token(metadata)

    def from_certificate(self, context: AuthContext) -> Caller:
        """Implements `CallerSource`."""
        del context
        raise UnauthenticatedError("no token")

    def confirm(self, caller: Caller, context: AuthContext) -> Caller:
        """Implements `CallerSource`."""
        del context
        return caller


class CertificateSource:
    """Recognises callers by their token if they send one, else by their client certificate."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    async def prepare(self, metadata: Metadata) -> None:
        """Implements `CallerSource`."""
        await self._callers.prepare(metadata)

    def from_metadata(self, metadata: Metadata) -> Caller | None:
        """Implements `CallerSource`. A wrong token never falls back to the certificate."""
        if self._callers.directory and not any(key == "authorization" for key, _ in metadata):
            return None
        return self._callers.by_token_with_certificate(metadata)

    def confirm(self, caller: Caller, context: AuthContext) -> Caller:
        """Implements `CallerSource`."""
        return self._callers.confirm(caller, context)

    def from_certificate(self, context: AuthContext) -> Caller:
        """Implements `CallerSource`."""
        if self._callers.directory is None:
            return OPERATOR
        return self._callers.until_certificate_ends(self._callers.directory.by_certificate(context), context)


class SocketSource:
    """Recognises the caller of a unix socket by the socket alone."""

    def __init__(self, callers: Callers, path: str) -> None:
        self._callers = callers
        self._path = path

    async def prepare(self, metadata: Metadata) -> None:
        """Implements `CallerSource`."""

    def from_metadata(self, metadata: Metadata) -> Caller | None:
        """Implements `CallerSource`."""
        del metadata
        if self._callers.directory is None:
            raise UnauthenticatedError("this socket is no longer anybody's")
        return self._callers.directory.by_socket(self._path)

    def from_certificate(self, context: AuthContext) -> Caller:
        """Implements `CallerSource`."""
        del context
        raise UnauthenticatedError("no certificate counts here")

    def confirm(self, caller: Caller, context: AuthContext) -> Caller:
        """Implements `CallerSource`."""
        del context
        return caller
