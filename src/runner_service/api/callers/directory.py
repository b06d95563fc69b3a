"""Who is who, by what was read of CALLERS_FILE."""

import math
import time
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from runner_service.api.callers.certificates import AuthContext, certificate_names, parse_certificate_name
from runner_service.api.callers.file import CallerEntry, CallersFile, SocketEntry
from runner_service.api.callers.tokens import PREFIX, token_hash, token_id
from runner_service.errors import CredentialExpiredError, UnauthenticatedError
from runner_service.identity import Caller


class _Token(NamedTuple):
    id: str
    caller: Caller


class Directory:
    """Finds callers. Immutable: a changed file makes a new one."""

    def __init__(self, file: CallersFile) -> None:
        self.file = file
        self._by_token = {
            bytes.fromhex(token.sha256): _Token(token.id, _token_caller(entry, token.expires))
            for entry in file.callers
            for token in entry.tokens
        }
        self._by_certificate = {
            parse_certificate_name(name): _caller(entry) for entry in file.callers for name in entry.certificates
        }
        self._by_socket = {entry.path: _caller(entry) for entry in file.sockets}

    def by_token(self, token: str) -> Caller:
        """Returns whose token it is.

        Raises:
            UnauthenticatedError: nobody's, or it has expired.
        """
        found = self._by_token.get(token_hash(token))
        if found is None:
            if token.startswith(PREFIX) and token_id(token) is None:
                raise UnauthenticatedError("wrong token: it was mistyped or cut")
            raise UnauthenticatedError("wrong token")
        if found.caller.until <= time.time():
            raise CredentialExpiredError(f"the token {found.id} of {found.caller.name} has expired")
        return found.caller

    def by_certificate(self, context: AuthContext) -> Caller:
        """Returns whose certificate a connection has shown.

        Raises:
            UnauthenticatedError: nobody's.
        """
        names = list(certificate_names(context))
        found = {caller for name in names if (caller := self._by_certificate.get(name))}
        if not names:
            raise UnauthenticatedError("no token and no certificate")
        if len(found) != 1:
            which = "no caller" if not found else "several callers"
            raise UnauthenticatedError(f"the client certificate names {which} of CALLERS_FILE")
        return found.pop()

    def by_socket(self, path: str) -> Caller:
        """Returns whose socket it is. Raises UnauthenticatedError: the file no longer has it."""
        found = self._by_socket.get(path)
        if found is None:
            raise UnauthenticatedError("this socket is no longer anybody's")
        return found


def _token_caller(entry: CallerEntry, expires: datetime | None) -> Caller:
    until = expires.timestamp() if expires else math.inf
    needed = frozenset(map(parse_certificate_name, entry.with_certificates))
    return replace(_caller(entry), until=until, with_certificates=needed)


def _caller(entry: CallerEntry | SocketEntry) -> Caller:
    return Caller(entry.name, entry.tenant, entry.tenant, frozenset(entry.roles), frozenset(entry.acts_for))
