"""Callers of the service, in the process of the benchmark: they take what comes as cheaply as a client can."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_METHOD = "/runner_service.v1.AgentRunnerService/ExecuteAgent"
_WATCH = "/runner_service.v1.AgentRunnerService/WatchExecution"
_CALLS_PER_CHANNEL = 100
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 16 << 20))


class Caller:
    """Calls of one service, over as many connections as that takes."""

    def __init__(self, address: str, channels: Sequence[grpc.aio.Channel]) -> None:
        self.address = address
        self._calls: list[Any] = [
            channel.unary_stream(_METHOD, request_serializer=lambda message: message.SerializeToString())
            for channel in channels
        ]
        self._watches: list[Any] = [
            channel.unary_stream(_WATCH, request_serializer=lambda message: message.SerializeToString())
            for channel in channels
        ]
        self.messages = 0
        """How many messages came in all streams so far."""

    def start(self, message: str, *, number: int = 0, **fields: Any) -> Any:
        """Starts an execution and returns its stream, of bytes."""
        agent = fields.pop("agent", None) or runner_pb2.Agent(name="measured", instructions="Answer.")
        request = runner_pb2.ExecuteAgentRequest(message=message, agent=agent, **fields)
        return self._calls[number % len(self._calls)](request)

    def watch(self, execution_id: str, *, number: int = 0) -> Any:
        """Watches an execution and returns its stream, of bytes."""
        return self._watches[number % len(self._watches)](runner_pb2.WatchExecutionRequest(execution_id=execution_id))

    async def finish(self, stream: Any) -> event_pb2.Finished:
        """Reads a stream to its end, and returns that."""
        last = b""
        async for page in stream:
            self.messages += 1
            last = page or last
        finished = runner_pb2.ExecuteAgentResponse.FromString(last).events[-1].finished
        if finished.state != event_pb2.STATE_SUCCEEDED:
            raise RuntimeError(f"an execution ended {event_pb2.State.Name(finished.state)}: {finished.error.message}")
        return finished

    async def until(self, stream: Any, reached: Callable[[event_pb2.ExecutionEvent], bool]) -> int:
        """Reads a stream up to the page that holds what is wanted; returns how many events came."""
        count = 0
        while (page := await stream.read()) is not grpc.aio.EOF:
            self.messages += 1
            events = runner_pb2.ExecuteAgentResponse.FromString(page).events
            count += len(events)
            if any(reached(event) for event in events):
                return count
        raise RuntimeError(f"the stream ended early: {await stream.code()} {await stream.details()}")


@asynccontextmanager
async def calling(address: str, *, calls: int = 1) -> AsyncIterator[Caller]:
    """Opens the connections for `calls` calls at once."""
    async with AsyncExitStack() as channels:
        count = -(-calls // _CALLS_PER_CHANNEL)
        opened = [
            await channels.enter_async_context(grpc.aio.insecure_channel(address, options=_OPTIONS))
            for _ in range(count)
        ]
        await asyncio.gather(*(channel.channel_ready() for channel in opened))
        yield Caller(address, opened)
