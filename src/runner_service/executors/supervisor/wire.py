"""Messages between service and supervisor: JSON with a four-byte length prefix, file descriptors as ancillary data.

To the supervisor:
    {"do": "start", "id", "execution", "argv", "cwd", "environment", "asked", "streams", "confined"}
                                                          with `streams` descriptors: where stdout and stderr go and,
                                                          if it is fed, where stdin comes from; `environment` is null
                                                          if it is that of the last `start`; `asked` is when, by the
                                                          clock that all processes share; commands with one `execution`
                                                          are limited together
    {"do": "confine", "id", "execution", "paths", "has_network"}
                                                          makes a restricted thread, from which the commands of this
                                                          execution that say `confined` are started
    {"do": "release", "execution"}                        ends that thread
    {"do": "end", "id", "commands"}                       ends the trees of these commands, SIGTERM first
    {"do": "ping"}                                        asks for a `pong`
    {"do": "close"}                                       ends everything, then the supervisor

To the service:
    {"did": "ready", "control", "zone"}                   once, first; from a cell also "gaps" and, with a descriptor
                                                          of the listener for the egress proxy, "proxy_port"
    {"did": "confine", "id", "error"}                     the thread is restricted, or why not
    {"did": "exit", "id", "status", "spawn_time", "cpu_time", "peak_memory", "left_behind"}
    {"did": "fail", "id", "code", "text", "root_is_gone"} the command could not be started; `code` is 126 or 127
    {"did": "exceed", "id", "limit", "allowed", "end"}    the command uses too much and is being ended; an `end` with
                                                          that id follows
    {"did": "pong"}
    {"did": "end", "id", "killed"}                        [pid, name] of each process that had to be ended
"""

import json
from collections.abc import Callable
from typing import Any

HEADER_BYTES = 4

Message = dict[str, Any]

_to_json = json.JSONEncoder(separators=(",", ":")).encode  # made once: `dumps` and `loads` take twice as long
_from_json = json.JSONDecoder().raw_decode  # `decode` also looks for white space around it

_EXIT = '{"did":"exit","id":%d,"status":%d,"spawn_time":%r,"cpu_time":%r,"peak_memory":%d,"left_behind":%s}'


def from_json(body: bytearray) -> Message:
    """Returns a message from its JSON."""
    message: Message
    message, _ = _from_json(body.decode())
    return message


def encode(message: Message) -> bytes:
    """Returns the bytes of a message. Lone surrogates, which stand for bytes in file names, pass."""
    return frame(_to_json(message).encode("ascii"))


def encode_exit(
    number: int, status: int, *, spawn_time: float, cpu_time: float, peak_memory: int, left_behind: bool
) -> bytes:
    """Returns the bytes of `exit`, which someone waits for, in a fifth of the time of `encode`."""
    is_left = "true" if left_behind else "false"
    return frame((_EXIT % (number, status, spawn_time, cpu_time, peak_memory, is_left)).encode("ascii"))


def frame(body: bytes) -> bytes:
    """Returns the bytes of a message from its JSON."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class Decoder:
    """Incremental decoder. `from_json` turns the JSON of a message, UTF-8, into the message."""

    def __init__(self, from_json: Callable[[bytearray], Message] = from_json) -> None:
        self._from_json = from_json
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Adds bytes; returns the messages that are now complete."""
        self._buffer += data
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def _next(self) -> Message | None:
        end = HEADER_BYTES + int.from_bytes(self._buffer[:HEADER_BYTES], "big")
        if len(self._buffer) < HEADER_BYTES or len(self._buffer) < end:
            return None
        message = self._from_json(self._buffer[HEADER_BYTES:end])
        del self._buffer[:end]
        return message
