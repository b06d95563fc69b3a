"""Responses about commands: output and results as soon as available, late output, and their encoding."""

import asyncio
import json
from contextlib import suppress
from typing import Any

from runner_service.executors.attendant.output_buffer import STREAMS
from runner_service.executors.attendant.sessions import CommandRun, Session, offsets_in

Request = dict[str, Any]
Response = dict[str, Any]

_SETTLE_SECONDS = 0.015


async def output_response(session: Session, run: CommandRun | None, request: Request) -> Response:
    """Waits until a command has ended or has unread output, and returns both."""
    if run is None:
        return {"unknown_command": True}
    run.reset_idle_timer(request["wait"])
    offsets = offsets_in(request)
    for stream in STREAMS:
        run.output.acknowledge(stream, offsets[stream])
    with suppress(TimeoutError):
        async with asyncio.timeout(request["wait"]):
            while not (run.ended.is_set() or run.output.has_output_after(offsets)):
                await session.notifier.wait()
    if run.stdin is None:  # a client of a command with stdin waits for its output, not its end
        await _settle(session, run)
    # Output after the end of the command is late output, which has a request of its own.
    return {**run.output.read(offsets, run.late_from or None), "result": run.result}


async def _settle(session: Session, run: CommandRun) -> None:
    """Waits briefly for the end of a command that has just written, which saves a round trip."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_SECONDS):
            while not run.ended.is_set():
                await session.notifier.wait()


def late_output(session: Session, taken: dict[str, dict[str, int]]) -> dict[str, tuple[CommandRun, Any]]:
    """Returns ended commands with unread output, and the offsets read so far."""
    late = {}
    for name, run in session.runs.items():
        if run.ended.is_set():
            offsets = offsets_in(taken[name]) if name in taken else run.late_from
            for stream in STREAMS:
                run.output.acknowledge(stream, offsets[stream])
            if run.output.has_output_after(offsets):
                late[name] = (run, offsets)
    return late


def encode_response(response: Response) -> bytes:
    """Returns a line of JSON followed by the output, so that large output is not parsed as JSON."""
    bulk = [str(response.get(stream, "")) for stream in STREAMS]
    if any(bulk):
        response = {**response, **{stream: len(each) for stream, each in zip(STREAMS, bulk, strict=True)}}
    header = json.dumps(response, separators=(",", ":"))
    return "".join((header, "\n", *bulk)).encode("ascii")


def with_offset_names(offsets: dict[Any, int]) -> dict[str, int]:
    """Returns the offsets under the names used in responses."""
    return {f"{stream}_at": offset for stream, offset in offsets.items()}
