"""The messages of `wire` for the service: by orjson, where it is installed, in a tenth of the time."""

from typing import TYPE_CHECKING

from runner_service.executors.supervisor import wire

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import orjson
except ImportError:  # for an attendant in its sandbox
    encode: "Callable[[wire.Message], bytes]" = wire.encode
    from_json: "Callable[[bytearray], wire.Message]" = wire.from_json
else:

    def encode(message: wire.Message) -> bytes:
        """Returns the bytes of a message."""
        try:
            return wire.frame(orjson.dumps(message))
        except TypeError:  # lone surrogates
            return wire.encode(message)

    def from_json(body: bytearray) -> wire.Message:
        """Returns a message from its JSON."""
        try:
            message: wire.Message = orjson.loads(body)
        except orjson.JSONDecodeError:  # lone surrogates
            return wire.from_json(body)
        return message
