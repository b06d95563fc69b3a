"""Reads the responses of an attendant out of what its relay has printed."""

import asyncio
import binascii
import json
import zlib
from typing import Any

from runner_service.executors.attendant.output_buffer import STREAMS
from runner_service.executors.attendant.relay import ANSWER
from runner_service.executors.protocol import SandboxError

_CHUNK_BYTES = 256 * 1024


async def decode_response(printed: str) -> dict[str, Any] | None:
    """Returns the response, with the output of commands in chunks of at most 256 KiB; None if missing or truncated.

    Lets others have their turn between the chunks.

    Raises:
        SandboxError: Python in the sandbox is too old.
    """
    _, found, rest = printed.rpartition(ANSWER)
    if not found:
        return None
    line, _, bulk = rest.partition("\n")
    try:
        response = json.loads(line)
    except ValueError:
        return None
    if not isinstance(response, dict):
        return None
    if old := response.get("too_old"):
        raise SandboxError(f"the snapshot has Python {old}; commands need Python 3.11 or newer in it")
    try:
        is_whole = await _fill_in(response, bulk.rstrip())
    except (binascii.Error, zlib.error):
        return None
    return response if is_whole else None


async def _fill_in(response: dict[str, Any], bulk: str) -> bool:
    """Puts the output in the places where its sizes are; false if there is less of it."""
    outputs = [*response.get("commands", {}).values(), *response.get("late", {}).values()]
    places = [(output, stream) for output in outputs for stream in STREAMS if stream in output]
    decompressor = zlib.decompressobj()
    compressed = await _decoded(bulk)
    for output, stream in places:
        left, output[stream] = output[stream], []
        while left:
            chunk = decompressor.decompress(compressed, min(left, _CHUNK_BYTES))
            compressed = decompressor.unconsumed_tail
            if not chunk:
                return False
            output[stream].append(chunk)
            left -= len(chunk)
            await asyncio.sleep(0)
    return True


async def _decoded(bulk: str) -> bytes:
    decoded = bytearray()
    for at in range(0, len(bulk), _CHUNK_BYTES):  # a multiple of four, as base64 needs
        decoded += binascii.a2b_base64(bulk[at : at + _CHUNK_BYTES])
        await asyncio.sleep(0)
    return bytes(decoded)
