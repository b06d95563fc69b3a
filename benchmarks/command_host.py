"""Runs the commands that it is sent, each in the local executor: `--bare` sends what they write as it comes, on a plain
grpc.aio stream; else it goes the way of the service, through redaction, log and page. No agent takes part.

A message is a command, or `{"command": TEXT, "times": N}` for so many of them after each other.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.hosts import PlainLoop, serve_bare, serve_with
from runner_service.agent.interface import AgentRun
from runner_service.agent.tools.command import run_command
from runner_service.agent.tools.scope import RunningCall, RunScope
from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import Command, SandboxSpec, Stream
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


class CommandLoop(PlainLoop):
    """An `AgentLoop` that is its own model."""

    async def run(self, run: AgentRun) -> str:
        """Runs the commands."""
        asked = json.loads(run.message)
        scope = RunScope(run, journal=None, scratch=None, run_id=run.execution_id)  # type: ignore[arg-type]  # for agents alone
        for number in range(asked["times"]):
            call = RunningCall(id=f"call-{number}", name="execute", sub_agent_id="")
            run.events.publish(event_pb2.ToolCallStarted(tool_call_id=call.id, name=call.name))
            _, exit_code = await run_command(scope, call, asked["command"], None)
            run.events.publish(event_pb2.ToolCallFinished(tool_call_id=call.id, exit_code=exit_code))
        return ""


class StreamSink:
    """Writes what a command says to the stream at once."""

    def __init__(self, write: Callable[[runner_pb2.ExecuteAgentResponse], Awaitable[None]]) -> None:
        self._write = write
        self._busy = asyncio.Lock()

    async def write(self, stream: Stream, data: bytes) -> None:
        """As of `OutputSink`."""
        output = event_pb2.ToolOutput()
        setattr(output, stream, data)
        async with self._busy:  # grpc takes one write at a time
            await self._write(runner_pb2.ExecuteAgentResponse(events=[event_pb2.ExecutionEvent(tool_output=output)]))


async def _serve_bare(ready_fd: int, base: Path) -> None:
    async with (
        local_executor(root=base / "workspace", state_dir=base / "state") as executor,
        executor.open(SandboxSpec("bare")) as sandbox,
    ):

        async def execute_agent(request: runner_pb2.ExecuteAgentRequest, context: Any) -> None:
            asked = json.loads(request.message)
            for _ in range(asked["times"]):
                result = await sandbox.run(Command(asked["command"], 60.0, StreamSink(context.write)))
                ended = event_pb2.ToolCallFinished(exit_code=result.exit_code)
                event = event_pb2.ExecutionEvent(tool_call_finished=ended)
                await context.write(runner_pb2.ExecuteAgentResponse(events=[event]))

        await serve_bare(execute_agent, ready_fd)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--bare", action="store_true")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as base,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        (Path(base) / "state").mkdir()
        serve = _serve_bare if arguments.bare else _serve_service
        runner.run(serve(arguments.ready_fd, Path(base)))


async def _serve_service(ready_fd: int, base: Path) -> None:
    await serve_with(CommandLoop(), ready_fd, base)


if __name__ == "__main__":
    _main()
