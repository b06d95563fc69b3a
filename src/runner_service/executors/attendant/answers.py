"""What the attendant answers of a command: its news as soon as there are any, its late output, and their bytes."""

import asyncio
import json
from contextlib import suppress
from typing import Any

from runner_service.executors.attendant.sessions import Opening, Run, offsets_in
from runner_service.executors.attendant.spool import STREAMS

Request = dict[str, Any]
Answer = dict[str, Any]

_SETTLE_SECONDS = 0.015


async def news_of(opening: Opening, run: Run | None, request: Request) -> Answer:
    """Waits until a command has ended or has written more than was taken, and tells."""
    if run is None:
        return {"unknown_command": True}
    run.hear(request["wait"])
    offsets = offsets_in(request)
    for stream in STREAMS:
        run.spool.take(stream, offsets[stream])
    with suppress(TimeoutError):
        async with asyncio.timeout(request["wait"]):
            while not (run.ended.is_set() or run.spool.has_beyond(offsets)):
                await opening.news.wait()
    if run.feed is None:  # who talks to a command waits for what it says, not for its end
        await _settle(opening, run)
    # What comes after the end is late: it is for those who ask for that.
    return {**run.spool.pieces(offsets, run.late_from or None), "result": run.result}


async def _settle(opening: Opening, run: Run) -> None:
    """Waits a moment for the end of a command that has just written: an answer less costs more than this moment."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_SECONDS):
            while not run.ended.is_set():
                await opening.news.wait()


def late_runs(opening: Opening, taken: dict[str, dict[str, int]]) -> dict[str, tuple[Run, Any]]:
    """Returns the commands that have ended and wrote more than was taken of them, with how far that was."""
    late = {}
    for name, run in opening.runs.items():
        if run.ended.is_set():
            offsets = offsets_in(taken[name]) if name in taken else run.late_from
            for stream in STREAMS:
                run.spool.take(stream, offsets[stream])
            if run.spool.has_beyond(offsets):
                late[name] = (run, offsets)
    return late


def encoded(answer: Answer) -> bytes:
    """Returns a line of JSON and, behind it, the output as it is: most of a large answer, which nobody has to parse."""
    bulk = [str(answer.get(stream, "")) for stream in STREAMS]
    if any(bulk):
        answer = {**answer, **{stream: len(each) for stream, each in zip(STREAMS, bulk, strict=True)}}
    header = json.dumps(answer, separators=(",", ":"))
    return "".join((header, "\n", *bulk)).encode("ascii")


def at(offsets: dict[Any, int]) -> dict[str, int]:
    """Returns how far the output of each stream was taken, as answers name it."""
    return {f"{stream}_at": offset for stream, offset in offsets.items()}
