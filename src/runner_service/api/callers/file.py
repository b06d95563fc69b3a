"""CALLERS_FILE: who may call, for which tenants, and by what they are recognised."""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, Field, ValidationError, model_validator

from runner_service.api.callers.certificates import valid_certificate_name
from runner_service.api.callers.file_errors import CallersFileError
from runner_service.api.callers.issuers_file import IssuerEntry, StrictEntry, TenantName
from runner_service.api.callers.strict_yaml import Document, StrictYamlError, read_document
from runner_service.api.callers.tenants_file import TenantEntry
from runner_service.executions.tenant_limits import TenantLimits
from runner_service.identity import Role

_HASH = r"[0-9a-f]{64}"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}"
_MODE = r"0?[0-7]{3}"


CallerName = Annotated[str, Field(pattern=f"^{_NAME}$")]


class TokenEntry(StrictEntry):
    """A named token, as `runner-service token new` prints it."""

    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{9}$")]
    sha256: Annotated[str, Field(pattern=f"^{_HASH}$")]
    expires: AwareDatetime | None = None


class _Granted(StrictEntry):
    """What a caller may do, and for whom."""

    name: CallerName
    tenant: TenantName
    roles: Annotated[list[Role], Field(min_length=1)]
    acts_for: tuple[TenantName, ...] = ()


class CallerEntry(_Granted):
    """A caller with tokens or certificates, or both."""

    tokens: tuple[TokenEntry, ...] = ()
    certificates: tuple[Annotated[str, AfterValidator(valid_certificate_name)], ...] = ()
    with_certificates: tuple[Annotated[str, AfterValidator(valid_certificate_name)], ...] = ()
    """The tokens count only together with a client certificate that has one of these names."""

    @model_validator(mode="after")
    def _is_recognisable(self) -> Self:
        if not (self.tokens or self.certificates):
            raise ValueError("should have tokens or certificates, or nobody can be this caller")
        if self.with_certificates and not self.tokens:
            raise ValueError("with_certificates is what tokens need; certificates that are enough are certificates")
        return self


class SocketEntry(_Granted):
    """A unix socket for one local caller: whoever may open it is this caller."""

    path: Annotated[str, Field(pattern=r"^/.+")]
    owner: str = ""
    group: str = ""
    mode: Annotated[str, Field(pattern=f"^{_MODE}$")] = "0600"


class CallersFile(StrictEntry):
    """The whole file."""

    tenants: dict[TenantName, TenantEntry] = Field(default_factory=dict)
    callers: tuple[CallerEntry, ...] = ()
    issuers: tuple[IssuerEntry, ...] = ()
    sockets: tuple[SocketEntry, ...] = ()
    digest: str = ""
    """A hash of the file, to compare replicas by."""

    @model_validator(mode="after")
    def _is_unambiguous(self) -> Self:
        for what, values in (
            ("caller", [each.name for each in (*self.callers, *self.sockets)]),
            ("token", [token.id for each in self.callers for token in each.tokens]),
            ("token hash", [token.sha256 for each in self.callers for token in each.tokens]),
            ("certificate", [name for each in self.callers for name in each.certificates]),
            ("issuer", [each.name for each in self.issuers]),
            ("socket", [each.path for each in self.sockets]),
        ):
            if twice := next((each for each in values if values.count(each) > 1), None):
                raise ValueError(f"the {what} {twice} is there twice")
        return self

    def tenant_names(self) -> frozenset[str]:
        """Returns every tenant that the file names."""
        granted: list[_Granted] = [*self.callers, *self.sockets]
        named = {name for each in granted for name in (each.tenant, *each.acts_for)}
        claimed = {name for issuer in self.issuers for rule in issuer.rules for name in rule.all_tenants()}
        return frozenset(named | claimed | set(self.tenants))

    def tenant_limits(self) -> dict[str, TenantLimits]:
        """Returns the limits of the tenants that have any."""
        return {name: entry.limits() for name, entry in self.tenants.items()}

    def expiries(self) -> Iterator[tuple[str, str, datetime]]:
        """Yields the caller, the id and the end of each token that has one."""
        for caller in self.callers:
            for token in caller.tokens:
                if token.expires:
                    yield caller.name, token.id, token.expires


def read_callers_file(path: Path) -> CallersFile:
    """Reads the file: some milliseconds per hundred callers, so call it in a thread.

    Raises:
        CallersFileError: it cannot be read, or something in it is wrong.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CallersFileError(f"CALLERS_FILE {path} cannot be read: {error.strerror}") from error
    try:
        document = read_document(data)
    except StrictYamlError as error:
        raise CallersFileError(f"CALLERS_FILE {path}: {error}") from None
    if not isinstance(document.value, dict) or not document.value:
        raise CallersFileError(f"CALLERS_FILE {path}: should hold callers or sockets; it is empty")
    try:
        file = CallersFile.model_validate(document.value)
    except ValidationError as error:
        raise CallersFileError(_describe(path, document, error)) from None
    return file.model_copy(update={"digest": hashlib.sha256(data).hexdigest()})


def _describe(path: Path, document: Document, error: ValidationError) -> str:
    """Returns a line for each error; values are left out, since a misplaced token may be among them."""
    lines = []
    for details in error.errors(include_input=False, include_url=False):
        where = ".".join(map(str, details["loc"]))
        text = details["msg"].removeprefix("Value error, ").replace("Input should", "should")
        line = document.line_of(details["loc"])
        lines.append(f"CALLERS_FILE {path}: line {line}: {f'{where}: ' if where else ''}{text}")
    return "\n".join(lines)
