"""Serialisation of what graphs checkpoint and of journaled messages."""

from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer


class StateSerializer(JsonPlusSerializer):
    """Deserialises messages and plain values only: commands run as the same user, and could write to the file.

    By default the library imports and calls whatever a checkpoint names. Types that are not on its safe list stay the
    plain values that they were stored as.
    """

    def __init__(self) -> None:
        super().__init__(allowed_msgpack_modules=None)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Reads a value. Raises NotImplementedError for the JSON format, which can name any class."""
        if data[0] == "json":
            raise NotImplementedError("checkpoints in JSON are not supported")
        return super().loads_typed(data)
