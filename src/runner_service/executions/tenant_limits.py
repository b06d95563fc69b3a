"""The limits of tenants, as CALLERS_FILE has them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration

from runner_service.errors import FieldViolation, InvalidRequestError
from runner_service.v1 import agent_runner_pb2 as runner_pb2

DURATIONS = ("timeout", "command_timeout")
COUNTS = ("max_model_calls", "max_tool_calls", "max_total_tokens", "max_output_bytes")


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


def check_ceilings(requested: runner_pb2.ExecutionLimits, limits: TenantLimits) -> None:
    """Checks what a request asks for. Raises InvalidRequestError: a field is above what its tenant may have."""
    violations = [
        FieldViolation(
            f"limits.{name}", f"must be at most {highest:.15g}{' s' if name in DURATIONS else ''} for this tenant"
        )
        for name, highest in limits.at_most.items()
        if _value(requested, name) > highest
    ]
    if violations:
        raise InvalidRequestError(violations)


def apply_ceilings(limits: runner_pb2.ExecutionLimits, tenant: TenantLimits) -> None:
    """Lowers limits, such as the service's defaults, to what a tenant may have."""
    for name, highest in tenant.at_most.items():
        if _value(limits, name) > highest:
            if name in DURATIONS:
                getattr(limits, name).CopyFrom(_duration(highest))
            else:
                setattr(limits, name, int(highest))


def _value(limits: runner_pb2.ExecutionLimits, name: str) -> float:
    value = getattr(limits, name)
    return float(value.ToNanoseconds() / 1e9 if isinstance(value, Duration) else value)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
