"""The issuers of CALLERS_FILE: whose JSON Web Tokens count, and what their claims mean."""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from runner_service.addresses import TcpAddress, is_loopback
from runner_service.api.callers.certificates import valid_certificate_name
from runner_service.identity import TENANT, Role

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Asymmetric ones alone: nobody else could have signed."""


def _tenant(name: str) -> str:
    if not TENANT.fullmatch(name):
        raise ValueError("should be at most 40 lower-case letters, digits and '-', not beginning with '-'")
    return name


def _https(url: str) -> str:
    parts = urlsplit(url)
    is_local = parts.scheme == "http" and is_loopback(TcpAddress(parts.hostname or "", 0))
    if not parts.hostname or not (parts.scheme == "https" or is_local):
        raise ValueError("should be an https URL; http is for loopback alone")
    return url


TenantName = Annotated[str, AfterValidator(_tenant)]


class StrictEntry(BaseModel):
    """A part of the file, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class RuleEntry(StrictEntry):
    """Which tokens of an issuer count, and as what. The first rule that matches decides."""

    match: Annotated[dict[str, str], Field(min_length=1)]
    """Claims and their values; `*` stands for any characters but `/`. Of a claim that is a list, one value."""
    tenant: TenantName | None = None
    tenant_claim: list[str] = []
    """The keys that lead to the claim with the tenant, which must be one of `tenants`."""
    tenants: list[TenantName] = []
    roles: Annotated[list[Role], Field(min_length=1)]
    acts_for: list[TenantName] = []
    with_certificates: list[Annotated[str, AfterValidator(valid_certificate_name)]] = []
    """The tokens count only together with a client certificate that has one of these names."""

    @model_validator(mode="after")
    def _names_a_tenant(self) -> Self:
        if (self.tenant is None) is not bool(self.tenant_claim):
            raise ValueError("should have either tenant, or tenant_claim with tenants")
        if self.tenant_claim and not self.tenants:
            raise ValueError("tenant_claim needs tenants: an issuer speaks for no others")
        return self

    def matches(self, claims: dict[str, Any]) -> bool:
        """Tells whether the claims have all values."""
        return all(_has_value(claims.get(name), pattern) for name, pattern in self.match.items())

    def tenant_of(self, claims: dict[str, Any]) -> str | None:
        """Returns the tenant; None when the claim is missing or names another than `tenants`."""
        if self.tenant is not None:
            return self.tenant
        value: Any = claims
        for key in self.tenant_claim:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, str) and value in self.tenants else None

    def all_tenants(self) -> set[str]:
        """Returns every tenant that a token can be for."""
        return {*self.tenants, *self.acts_for} | ({self.tenant} if self.tenant else set())


class IssuerEntry(StrictEntry):
    """An issuer, by the claim `iss`, or for SPIFFE by the trust domain in `sub`."""

    issuer: str = ""
    trust_domain: Annotated[str, Field(pattern=r"^[a-z0-9._-]*$")] = ""
    audience: Annotated[str, Field(min_length=1)]
    jwks_file: Annotated[str, Field(pattern=r"^/.+")] | None = None
    jwks_url: Annotated[str, AfterValidator(_https)] | None = None
    algorithms: Annotated[list[Algorithm], Field(min_length=1)]
    rules: Annotated[list[RuleEntry], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if bool(self.issuer) is bool(self.trust_domain):
            raise ValueError("should have either issuer or trust_domain")
        if (self.jwks_file is None) is (self.jwks_url is None):
            raise ValueError("should have either jwks_file or jwks_url")
        return self

    @property
    def name(self) -> str:
        """What logs and errors call it."""
        return self.issuer or f"spiffe://{self.trust_domain}"


def _has_value(found: Any, pattern: str) -> bool:
    values = found if isinstance(found, list) else [found]
    expression = "[^/]*".join(map(re.escape, pattern.split("*")))
    return any(isinstance(value, str) and re.fullmatch(expression, value) for value in values)
