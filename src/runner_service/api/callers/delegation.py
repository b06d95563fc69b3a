"""Acting for another tenant, which the metadata `x-runner-tenant` names."""

from collections.abc import Iterable
from dataclasses import replace

from runner_service.errors import FieldViolation, InvalidRequestError, PermissionDeniedError
from runner_service.identity import TENANT, Caller

Metadata = Iterable[tuple[str, str | bytes]]

TENANT_KEY = "x-runner-tenant"


def acting(caller: Caller, metadata: Metadata) -> Caller:
    """Returns the caller as it acts in a call: for its own tenant, or for the one that the metadata names.

    Raises:
        InvalidRequestError: the metadata names several tenants, or no tenant at all.
        PermissionDeniedError: the caller may not act for that tenant.
    """
    named = [value for key, value in metadata if key == TENANT_KEY]
    if not named:
        return caller
    tenant = named[0]
    if len(named) > 1 or not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
        raise InvalidRequestError([FieldViolation(f"metadata {TENANT_KEY}", "must be the name of one tenant")])
    if not (caller.is_operator or tenant == caller.home_tenant or tenant in caller.acts_for):
        raise PermissionDeniedError(f"{caller.name} may not act for the tenant {tenant}")
    return replace(caller, tenant=tenant)
