"""Responses about commands: output and results as soon as there are any, and their encoding."""

import asyncio
import base64
import json
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from runner_service.executors.attendant.output_buffer import STREAMS, Offsets
from runner_service.executors.attendant.sessions import CommandRun, Session, offsets_in

Request = dict[str, Any]
Response = dict[str, Any]

_SETTLE_SECONDS = 0.015
_MAX_OUTPUT_BYTES = 4 * 1024 * 1024
_MAX_COMPRESSED_BYTES = 576 * 1024
_BLOCK_BYTES = 64 * 1024
_COMPRESSION_LEVEL = 1


async def start_response(session: Session, name: str, run: CommandRun | None, wait: float) -> Response:
    """Waits until a command that has just been started has ended or has output, and returns both."""
    nothing_read: Offsets = dict.fromkeys(STREAMS, 0)
    if run is not None:
        run.reset_idle_timer(wait)
        await _wait_until(session, lambda: run.ended.is_set() or run.output.has_output_after(nothing_read), wait)
        await _settle(session, [run])
    return {"commands": _outputs({name: (run, nothing_read)})}


async def poll_response(session: Session, request: Request) -> Response:
    """Waits for what is new in any command, and returns all of it.

    `commands` are the offsets of those whose result the service does not have yet. Of the others, those that have ended
    are asked about as well, from the offsets in `late` or from their ends, unless they are `busy`. A newer poll of the
    same service ends an older one.
    """
    poll = (str(request["poller"]), int(request["turn"]))
    session.begin_poll(poll)
    runs = {name: session.find_command(name) for name in request["commands"]}
    listed = {name: (run, offsets_in(request["commands"][name])) for name, run in runs.items()}
    for run, offsets in listed.values():
        if run is not None:
            run.reset_idle_timer(request["wait"])
            run.output.acknowledge_all_before(offsets)

    def has_news() -> bool:
        return (
            session.is_superseded(poll)
            or any(run is None or run.ended.is_set() or run.output.has_output_after(at) for run, at in listed.values())
            or bool(_late(session, request))
            or len(session.notices) > request["notices"]
        )

    await _wait_until(session, has_news, request["wait"])
    if session.is_superseded(poll):
        return {"commands": {}, "late": {}, "notices": []}
    await _settle(session, [run for run, at in listed.values() if run and run.output.has_output_after(at)])
    ready = {name: (run, at) for name, (run, at) in listed.items() if _is_ready(run, at)}
    late, notices = _late(session, request), session.notices[request["notices"] :]
    return {"commands": _outputs(ready), "late": _outputs(late, is_late=True), "notices": notices}


async def encode_response(response: Response) -> bytes:
    """Returns a line of JSON, and behind it the output of all commands, compressed, in base64.

    In the JSON are the sizes of the output, in its order. What would make the response too large is left for the next.
    """
    outputs = [*response.get("commands", {}).values(), *response.get("late", {}).values()]
    places = [(output, stream) for output in outputs for stream in STREAMS if stream in output]
    pieces: list[bytes] = [output[stream] for output, stream in places]
    if sum(map(len, pieces)) > _BLOCK_BYTES:
        bulk, sizes = await asyncio.to_thread(_compressed, pieces)
    else:
        bulk, sizes = _compressed(pieces)
    for (output, stream), size in zip(places, sizes, strict=True):
        output[stream] = size
    return json.dumps(response, separators=(",", ":")).encode("ascii") + b"\n" + base64.b64encode(bulk)


def _compressed(pieces: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """Compresses as much as fits, and returns how much of each piece that was."""
    if not any(pieces):
        return b"", [0] * len(pieces)
    compressor = zlib.compressobj(_COMPRESSION_LEVEL)
    compressed = bytearray()
    sizes = []
    for piece in pieces:
        done = 0
        while done < len(piece) and len(compressed) < _MAX_COMPRESSED_BYTES:
            block = piece[done : done + _BLOCK_BYTES]
            compressed += compressor.compress(block)
            done += len(block)
        sizes.append(done)
    return bytes(compressed + compressor.flush()), sizes


async def _wait_until(session: Session, is_so: Callable[[], bool], seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not is_so():
                await session.notifier.wait()


async def _settle(session: Session, runs: Sequence[CommandRun]) -> None:
    """Waits briefly for the end of commands that have just written, which saves a round trip.

    A client of a command with stdin waits for its output, not its end.
    """
    if runs and all(run.stdin is None for run in runs):
        await _wait_until(session, lambda: all(run.ended.is_set() for run in runs), _SETTLE_SECONDS)


def _is_ready(run: CommandRun | None, offsets: Offsets) -> bool:
    return run is None or run.ended.is_set() or run.output.has_output_after(offsets)


def _late(session: Session, request: Request) -> dict[str, tuple[CommandRun, Offsets]]:
    """Returns commands that have ended and wrote on, and the offsets read so far."""
    late = {}
    others = {*request["commands"], *request["busy"]}
    for name, run in session.runs.items():
        if run.ended.is_set() and name not in others:
            offsets = offsets_in(request["late"][name]) if name in request["late"] else run.late_from
            run.output.acknowledge_all_before(offsets)
            if run.output.has_output_after(offsets):
                late[name] = (run, offsets)
    return late


def _outputs(runs: dict[str, Any], *, is_late: bool = False) -> dict[str, Any]:
    """Reads what comes next of each command, fairly within the limit for one response."""
    limit = _MAX_OUTPUT_BYTES // max(1, len(runs) * len(STREAMS))
    return {name: _output(run, offsets, limit, is_late=is_late) for name, (run, offsets) in runs.items()}


def _output(run: CommandRun | None, offsets: Offsets, limit: int, *, is_late: bool) -> dict[str, Any]:
    if run is None:
        return {"unknown": True}
    # Output after the end of the command is late output, which is told apart.
    ends = run.output.sizes if is_late or not run.ended.is_set() else run.late_from
    part: dict[str, Any] = {"result": run.result}
    for stream in STREAMS:
        at = part[f"{stream}_at"] = offsets[stream]
        part[stream] = run.output.read(stream, at, min(ends[stream], at + limit))
    return part
