"""`output`."""

import asyncio
import codecs
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from runner_service import states
from runner_service.cli.completion_candidates import calls_in, calls_of
from runner_service.cli.errors import CommandError
from runner_service.cli.local_log import execution_in, opened_local_log
from runner_service.cli.target import Target
from runner_service.cli.views import wording
from runner_service.cli.views.lines import visible
from runner_service.executors.protocol import Stream
from runner_service.storage.sqlite.read_only_log import ReadOnlyLog
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from runner_service.client import RunnerClient

_READ_BYTES = 1 << 20
_POLL_INTERVAL_SECONDS = 0.2
_STREAMS = {"stdout": runner_pb2.OUTPUT_STREAM_STDOUT, "stderr": runner_pb2.OUTPUT_STREAM_STDERR}


def write_output(execution_id: str, call: str, *, stderr: bool, follow: bool, raw: bool, target: Target) -> None:
    """Writes the bytes to standard output; on a terminal with control characters shown, unless `raw`.

    Raises:
        CommandError: there is no such call, or the service cannot be asked.
    """
    write = _write_visible if sys.stdout.isatty() and not raw else _write
    stream: Stream = "stderr" if stderr else "stdout"
    with opened_local_log(target) as log:
        if log:
            execution = execution_in(log, execution_id)
            if not follow or states.is_final(execution.state):
                calls = calls_in(log.events(execution_id))
                for data in _read_from_log(log, execution_id, _call_id(calls, execution_id, call), stream):
                    write(data)
                return
    asyncio.run(_write_from_service(execution_id, call, stream, target, follow=follow, write=write))


def _read_from_log(log: ReadOnlyLog, execution_id: str, call_id: str, stream: Stream) -> Iterator[bytes]:
    offset = 0
    while data := log.read_output(execution_id, call_id, stream, offset, _READ_BYTES):
        yield data
        offset += len(data)
    if data is None:
        raise CommandError(f"tool call {call_id} is not in the log of {execution_id}")


async def _write_from_service(
    execution_id: str, call: str, stream: Stream, target: Target, *, follow: bool, write: Callable[[bytes], None]
) -> None:
    from runner_service.cli.connection import connected_for_reading  # noqa: PLC0415  # gRPC, where it is needed

    async with connected_for_reading(target) as connection:
        client = connection.client
        call_id = await _call_id_from_service(client, execution_id, call)
        offset = 0
        while True:
            piece = await client.read_output(
                execution_id, call_id, _STREAMS[stream], offset=offset, max_bytes=_READ_BYTES
            )
            offset = piece.next_offset
            write(piece.data)
            if piece.complete or not (piece.data or follow):
                return
            if not piece.data:
                await asyncio.sleep(_POLL_INTERVAL_SECONDS)


async def _call_id_from_service(client: "RunnerClient", execution_id: str, call: str) -> str:
    if not call.isdecimal():
        return call
    return _call_id(await calls_of(client, execution_id), execution_id, call)


def _call_id(calls: list[event_pb2.ToolCallStarted], execution_id: str, call: str) -> str:
    """Returns the tool call id of `call`, which is an id or a number."""
    if not call.isdecimal() or any(each.tool_call_id == call for each in calls):
        return call
    if 0 < int(call) <= len(calls):
        return calls[int(call) - 1].tool_call_id
    raise CommandError(
        f"{execution_id} has made {wording.counted(len(calls), 'tool call')} so far, and {call} is none of them\n"
        f"`runner-service events {execution_id}` shows them with their numbers."
    )


_decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")


def _write_visible(data: bytes) -> None:
    sys.stdout.write(visible(_decoder.decode(data)))
    sys.stdout.flush()


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
