"""The real service, but for the agent: it says tokens as fast as the log takes them.

With `--kind bare` it is a plain grpc.aio stream that sends each token as a message of its own, as one would write it
first. With `--kind mute` nothing is published, but the loop goes round as often.

With `--redis PORT` it is a replica that shares the Redis at that port.

An execution whose message is `{"tokens": N, "gap": SECONDS}` says "ready", waits until one with the message `open`
runs, says N tokens and "done", and ends with the next `open`. So what lies between "ready" and "done" is tokens alone.
With `"phase": SECONDS` it begins so much later: executions that all spoke in the same moment would wait for each other.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.deployment import LEASE, replica_variables
from benchmarks.hosts import PlainLoop, serve_bare, serve_with
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

TOKEN = " token"


class Gate:
    """Lets everybody through who waits at the moment it opens."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()

    async def passed(self) -> None:
        """Waits for the next opening."""
        await self._opened.wait()

    def open(self) -> None:
        """Opens for a moment."""
        opened, self._opened = self._opened, asyncio.Event()
        opened.set()


class Fountain(PlainLoop):
    """An `AgentLoop`."""

    def __init__(self, *, mute: bool) -> None:
        self._gate = Gate()
        self._mute = mute

    async def run(self, run: Any) -> str:
        """Says tokens."""
        if run.message == "open":
            self._gate.open()
            return ""
        asked = json.loads(run.message)
        framer = run.events.text_framer(event_pb2.TextDelta, "m")
        run.events.publish_text(framer, "ready")
        await self._gate.passed()
        await asyncio.sleep(asked.get("phase", 0.0))
        pace = Pace(asked["gap"])
        for _ in range(asked["tokens"]):
            if not self._mute:
                run.events.publish_text(framer, TOKEN)
                await run.events.wait_for_capacity()
            await pace.next()
        run.events.publish_text(framer, "done")
        await self._gate.passed()
        return ""


class Pace:
    """One token every `gap` seconds, whatever the others cost; 0: as fast as the loop goes round."""

    def __init__(self, gap: float) -> None:
        self._gap = gap
        self._due = time.monotonic()

    async def next(self) -> None:
        """Waits for the next one."""
        self._due += self._gap
        await asyncio.sleep(max(0.0, self._due - time.monotonic()) if self._gap else 0)


class BareServicer:
    """The same, with nothing between the token and the stream."""

    def __init__(self) -> None:
        self._gate = Gate()

    async def execute_agent(self, request: runner_pb2.ExecuteAgentRequest, context: Any) -> None:
        """Says tokens."""
        if request.message == "open":
            self._gate.open()
            return
        asked = json.loads(request.message)
        await context.write(_response(request, 1, "ready"))
        await self._gate.passed()
        pace = Pace(asked["gap"])
        for sequence in range(2, asked["tokens"] + 2):
            await context.write(_response(request, sequence, TOKEN))
            await pace.next()
        await context.write(_response(request, asked["tokens"] + 2, "done"))
        await self._gate.passed()


def _response(request: runner_pb2.ExecuteAgentRequest, sequence: int, text: str) -> runner_pb2.ExecuteAgentResponse:
    event = event_pb2.ExecutionEvent(execution_id=request.execution_id, sequence=sequence)
    event.text_delta.message_id, event.text_delta.text = "m", text
    event.create_time.seconds, event.create_time.nanos = divmod(time.time_ns(), 1_000_000_000)
    return runner_pb2.ExecuteAgentResponse(events=[event])


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--kind", choices=["service", "bare", "mute"], required=True)
    parser.add_argument("--redis", type=int, metavar="PORT")
    arguments = parser.parse_args()
    shared = replica_variables(arguments.redis) if arguments.redis else {}
    if LEASE in os.environ:
        from runner_service.storage.redis import backend

        backend.LEASE_SECONDS = float(os.environ[LEASE])
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as base,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(
            serve_bare(BareServicer().execute_agent, arguments.ready_fd)
            if arguments.kind == "bare"
            else serve_with(Fountain(mute=arguments.kind == "mute"), arguments.ready_fd, Path(base), shared)
        )


if __name__ == "__main__":
    _main()
