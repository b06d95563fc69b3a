"""The tenants of CALLERS_FILE: their weights, quotas and ceilings."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from runner_service.api.callers.issuers_file import StrictEntry
from runner_service.executions.tenant_limits import TenantLimits

_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZE, _DURATION = re.compile(r"(\d{1,15}) ?(\w*)"), re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])")


def _size(text: object) -> int:
    match = _SIZE.fullmatch(str(text))
    if match is None or match[2] not in _BYTES:
        raise ValueError("should be a number of bytes, such as 10GiB")
    return int(match[1]) * _BYTES[match[2]]


def _duration(text: object) -> float:
    match = _DURATION.fullmatch(str(text))
    if match is None:
        raise ValueError("should be a number and a unit: 90s, 30m, 2h or 1d")
    return float(match[1]) * _SECONDS[match[2]]


Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, BeforeValidator(_size)]
Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0)]
Positive = Annotated[int, Field(ge=1)]


class QuotasEntry(StrictEntry):
    """How much a tenant may have at once, in a minute, on a day, and keep."""

    running: Count | None = None
    queued: Count | None = None
    starts_per_minute: Count | None = None
    open_calls: Count | None = None
    tokens_per_day: Count | None = None
    stored_bytes: Size | None = None


class CeilingsEntry(StrictEntry):
    """The most that a request of the tenant may ask for in `limits`."""

    timeout: Duration | None = None
    command_timeout: Duration | None = None
    max_model_calls: Positive | None = None
    max_tool_calls: Positive | None = None
    max_total_tokens: Positive | None = None
    max_output_bytes: Size | None = None


class TenantEntry(StrictEntry):
    """A tenant."""

    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    quotas: QuotasEntry = QuotasEntry()
    at_most: CeilingsEntry = CeilingsEntry()

    def limits(self) -> TenantLimits:
        """Returns the limits as executions know them."""
        ceilings = {name: float(value) for name, value in self.at_most if value is not None}
        return TenantLimits(weight=self.weight, at_most=ceilings, **dict(self.quotas))
