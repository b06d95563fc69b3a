"""The real service with another agent loop, and the bare server that it is compared with."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.processes import say_ready
from benchmarks.service import service_environment
from runner_service.agent.interface import AgentLoop
from runner_service.importing import large_import
from runner_service.v1 import agent_runner_pb2 as runner_pb2

WORKSPACE = "BENCH_WORKSPACE"
"""The variable with the directory that stands for the sandboxes of all replicas."""


class PlainLoop:
    """What an `AgentLoop` that keeps nothing has to say about that."""

    async def kept(self) -> Collection[str]:
        """It keeps nothing."""
        return ()

    async def forget(self, execution_id: str, session_id: str) -> None:
        """There is nothing to forget."""

    async def kept_sessions(self) -> Collection[str]:
        """It keeps nothing."""
        return ()

    async def forget_session(self, session_id: str) -> None:
        """Keeps nothing."""


async def serve_with(loop: AgentLoop, ready_fd: int, base: Path, variables: Mapping[str, str] | None = None) -> None:
    """Serves the service as it is, but for its agent loop and, in cloud mode, its sandboxes. Files are below `base`.

    Changes are not tracked: nothing that it is compared with does, and `protections` measures that.
    """
    with large_import():
        from runner_service import serving
        from runner_service.agent import loader
        from runner_service.executors.daytona import factory
        from runner_service.executors.local.executor import local_executor
        from runner_service.settings import load_settings

    @asynccontextmanager
    async def opened(*_: object) -> AsyncIterator[AgentLoop]:
        yield loop

    loader.load = lambda: opened  # type: ignore[assignment]  # the rest is as it is
    factory.configured = lambda *_: local_executor(root=Path(os.environ[WORKSPACE]), state_dir=base)  # type: ignore[assignment]
    environment = service_environment(base, {"SANDBOX_TRACK_CHANGES": "off", **(variables or {})})
    await serving.serve(load_settings(environment), serving.ServeOptions(ready_fd=ready_fd))


async def serve_bare(execute_agent: Callable[[Any, Any], Awaitable[None]], ready_fd: int) -> None:
    """Serves `ExecuteAgent` alone, as grpc.aio comes."""
    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(
        execute_agent,
        request_deserializer=runner_pb2.ExecuteAgentRequest.FromString,
        response_serializer=runner_pb2.ExecuteAgentResponse.SerializeToString,
    )
    service = runner_pb2.DESCRIPTOR.services_by_name["AgentRunnerService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"ExecuteAgent": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say_ready(ready_fd, f"127.0.0.1:{port}")
    await server.wait_for_termination()
