"""The limits of tenants, as CALLERS_FILE has them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """The limits of one tenant. None is no limit but the service's."""

    weight: int = 1
    """How many turns it has in the queue for each turn of a tenant with weight 1."""
    running: int | None = None
    queued: int | None = None
    starts_per_minute: int | None = None
    open_calls: int | None = None
    tokens_per_day: int | None = None
    """Input and output, by days of UTC."""
    stored_bytes: int | None = None
    """Beyond it the tenant's oldest finished executions are deleted."""
    at_most: Mapping[str, float] = field(default_factory=dict)
    """The highest values of fields of `ExecutionLimits` that a request may ask for; durations in seconds."""


_NONE = TenantLimits()


class Tenants:
    """The limits of all tenants. CALLERS_FILE may change them at any time."""

    def __init__(self, limits: Mapping[str, TenantLimits] = {}) -> None:
        self._limits = limits

    def replace(self, limits: Mapping[str, TenantLimits]) -> None:
        """Takes other limits, for what starts from now on."""
        self._limits = limits

    def limits_of(self, tenant: str) -> TenantLimits:
        """Returns the limits of a tenant."""
        return self._limits.get(tenant, _NONE)

    def with_stored_bytes(self) -> Iterator[tuple[str, int]]:
        """Yields the tenants that may keep only so many bytes."""
        for tenant, limits in self._limits.items():
            if limits.stored_bytes is not None:
                yield tenant, limits.stored_bytes
