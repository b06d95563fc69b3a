"""The limits of one execution: what its request says, else the defaults, and at most what its tenant may have."""

from collections.abc import Sequence
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from runner_service.errors import FieldViolation, InvalidRequestError
from runner_service.executions.tenant_limits import TenantLimits
from runner_service.settings import Settings
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_Duration = Literal["timeout", "command_timeout"]

_DURATIONS: Sequence[_Duration] = ("timeout", "command_timeout")
_COUNTS = ("max_model_calls", "max_tool_calls", "max_total_tokens", "max_output_bytes")


def check_ceilings(requested: runner_pb2.ExecutionLimits, tenant: TenantLimits) -> None:
    """Checks what a request asks for. Raises InvalidRequestError: a field is above what its tenant may have."""
    violations = [
        FieldViolation(
            f"limits.{name}", f"must be at most {highest:.15g}{' s' if name in _DURATIONS else ''} for this tenant"
        )
        for name, highest in tenant.at_most.items()
        if _value(requested, name) > highest
    ]
    if violations:
        raise InvalidRequestError(violations)


def limits_in_force(
    requested: runner_pb2.ExecutionLimits, settings: Settings, tenant: TenantLimits
) -> runner_pb2.ExecutionLimits:
    """Returns what is requested, with every limit set."""
    limits = runner_pb2.ExecutionLimits()
    limits.CopyFrom(requested)
    durations: list[str] = [each for each in _DURATIONS if not requested.HasField(each)]
    for name in durations + [each for each in _COUNTS if not getattr(requested, each)]:
        _set(limits, name, getattr(settings, f"default_{name}"))
    for name, highest in tenant.at_most.items():
        if _value(limits, name) > highest:  # a default
            _set(limits, name, highest)
    return limits


def _value(limits: runner_pb2.ExecutionLimits, name: str) -> float:
    value = getattr(limits, name)
    return float(value.ToNanoseconds() / 1e9 if isinstance(value, Duration) else value)


def _set(limits: runner_pb2.ExecutionLimits, name: str, value: float) -> None:
    if name in _DURATIONS:
        getattr(limits, name).FromNanoseconds(int(value * 1e9))
    else:
        setattr(limits, name, int(value))
