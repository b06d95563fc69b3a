"""What model calls cost, by the operator's price file. No prices are shipped."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner_service.v1 import execution_event_pb2 as event_pb2

_MAX_FILE_BYTES = 1024 * 1024
_NANOS_PER_TOKEN = 1000
"""Of a price of 1 for a million tokens."""

Amount = Annotated[Decimal, Field(ge=0, le=1_000_000)]


class PricesFileError(Exception):
    """PRICES_FILE cannot be used; the text says why."""


class ModelPrice(BaseModel):
    """The price of a million tokens. `cached_input` is of input tokens from the provider's cache; unset: as `input`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Amount
    output: Amount
    cached_input: Amount | None = None

    def nanos(self, usage: event_pb2.Usage) -> int:
        """Returns the cost of some usage, in billionths of the currency."""
        cached_price = self.input if self.cached_input is None else self.cached_input
        cached = min(usage.cached_tokens, usage.input_tokens)
        total = self.input * (usage.input_tokens - cached) + cached_price * cached + self.output * usage.output_tokens
        return round(total * _NANOS_PER_TOKEN)


class Prices(BaseModel):
    """The content of PRICES_FILE: a currency, and prices by `provider/model`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    per_million_tokens: dict[str, ModelPrice]

    def add(self, cost: event_pb2.Cost, provider: str, model: str, usage: event_pb2.Usage) -> event_pb2.Cost:
        """Adds the usage of model calls to `cost`, in place, and returns what was added."""
        added = event_pb2.Cost(currency=self.currency)
        if price := self.per_million_tokens.get(f"{provider}/{model}"):
            added.nanos = price.nanos(usage)
        else:
            added.unpriced_model_calls = usage.model_calls
        cost.currency = self.currency
        cost.nanos += added.nanos
        cost.unpriced_model_calls += added.unpriced_model_calls
        return added


def read_prices_file(path: Path) -> Prices:
    """Reads prices in YAML. Blocks on the file system.

    Raises:
        PricesFileError: it cannot be read, or is not a valid price file.
    """
    import yaml  # noqa: PLC0415  # only needed with a file

    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PricesFileError(f"PRICES_FILE {path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise PricesFileError(f"PRICES_FILE {path} is larger than {_MAX_FILE_BYTES:,} bytes")
    try:
        return Prices.model_validate(yaml.safe_load(data))
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors())
        raise PricesFileError(f"PRICES_FILE {path} is not valid: {places}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PricesFileError(f"PRICES_FILE {path} is not YAML: {error}") from error
