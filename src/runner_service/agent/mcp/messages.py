"""Parses messages of MCP servers within bounds on size, values, and rate."""

import asyncio
import json
import re
import time

from mcp.types import JSONRPCMessage, JSONRPCResponse

from runner_service.models.json_values import MAX_VALUES, has_too_many_values

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""Limit of one message of a server."""

_MAX_REQUEST_BYTES = 1024 * 1024
_MAX_ITEMS = 1000
_LISTS = ("content", "tools")
_PARSED_INLINE_BYTES = 16 * 1024
_MESSAGES_PER_SECOND, _MAX_BURST = 100.0, 2000
_MAX_CONSECUTIVE_FAULTS = 200
_FAULTS_PER_TURN = 20

_SURROGATES = re.compile("[\ud800-\udfff]")


class MessageLimitError(Exception):
    """A server broke a limit, and its connection has to be closed. The text completes "it …"."""


class MessageParser:
    """Parses the messages of one connection."""

    def __init__(self) -> None:
        self._burst = float(_MAX_BURST)
        self._last = time.monotonic()
        self._faults = 0

    async def parse(self, data: bytes) -> JSONRPCMessage | None:
        """Parses one message; None if it is none.

        Raises:
            MessageLimitError: it is too large, or there are too many.
        """
        self.count_message()
        if len(data) > MAX_MESSAGE_BYTES:
            raise MessageLimitError(f"sent a message of more than {MAX_MESSAGE_BYTES:,} bytes")
        try:
            if len(data) > _PARSED_INLINE_BYTES:
                message = await asyncio.to_thread(_parsed, data)
            else:
                message = _parsed(data)
        except (ValueError, RecursionError):
            await self._count_fault()
            return None
        self._faults = 0
        return message

    def count_message(self) -> None:
        """Counts a message that is ignored. Raises MessageLimitError when there are too many."""
        now = time.monotonic()
        self._burst = min(_MAX_BURST, self._burst + (now - self._last) * _MESSAGES_PER_SECOND) - 1
        self._last = now
        if self._burst < 0:
            raise MessageLimitError(f"sent more than {_MAX_BURST:,} messages at once")

    async def _count_fault(self) -> None:
        self._faults += 1
        if self._faults > _MAX_CONSECUTIVE_FAULTS:
            raise MessageLimitError(f"sent more than {_MAX_CONSECUTIVE_FAULTS} things in a row that are no messages")
        if self._faults % _FAULTS_PER_TURN == 0:
            await asyncio.sleep(0)


def _parsed(data: bytes) -> JSONRPCMessage:
    """Parses a message. Raises ValueError, RecursionError, MessageLimitError."""
    if has_too_many_values(data):
        raise MessageLimitError(f"sent a message of more than {MAX_VALUES:,} values")
    value = json.loads(data.decode("utf-8", "replace"))
    if b"\\ud" in data.lower():  # halves of surrogate pairs, which nothing behind this can encode
        value = json.loads(_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", json.dumps(value, ensure_ascii=False)))
    # pydantic's own parser takes several times as long for many small values.
    message = JSONRPCMessage.model_validate(value)
    _check_sizes(message, len(data))
    return message


def _check_sizes(message: JSONRPCMessage, size: int) -> None:
    if not isinstance(message.root, JSONRPCResponse):
        if size > _MAX_REQUEST_BYTES:
            raise MessageLimitError(f"sent a request or notification of more than {_MAX_REQUEST_BYTES:,} bytes")
        return
    for name in _LISTS:
        items = message.root.result.get(name)
        if isinstance(items, list) and len(items) > _MAX_ITEMS:
            raise MessageLimitError(f"sent more than {_MAX_ITEMS:,} items of {name} at once")
