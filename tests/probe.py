"""A server with a small service of its own: what its methods do is up to the test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2_grpc

from runner_service.executions.readiness import Readiness
from runner_service.server import RunningServer, running_server
from runner_service.settings import load_settings

SERVICE = "probe.v1.Probe"

Context = grpc.aio.ServicerContext[StringValue, StringValue]
Unary = Callable[[StringValue, Context], Awaitable[StringValue]]
Stream = Callable[[StringValue, Context], Any]

_TYPES: dict[str, Any] = {
    "request_deserializer": StringValue.FromString,
    "response_serializer": StringValue.SerializeToString,
}


class Probe:
    """A running server, and a channel to it. `unary` and `stream` are what its two methods do."""

    def __init__(self, server: RunningServer, readiness: Readiness, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.readiness = readiness
        self.channel = channel

    def call(self, text: str = "", **options: Any) -> grpc.aio.UnaryUnaryCall[StringValue, StringValue]:
        method: grpc.aio.UnaryUnaryMultiCallable[StringValue, StringValue] = self.channel.unary_unary(
            f"/{SERVICE}/Call",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        return method(StringValue(value=text), **options)

    def watch(self, text: str = "", **options: Any) -> grpc.aio.UnaryStreamCall[StringValue, StringValue]:
        method: grpc.aio.UnaryStreamMultiCallable[StringValue, StringValue] = self.channel.unary_stream(
            f"/{SERVICE}/Watch",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        return method(StringValue(value=text), **options)

    @property
    def health(self) -> Any:
        return health_pb2_grpc.HealthStub(self.channel)


async def echo(request: StringValue, context: Context) -> StringValue:
    return request


async def count(request: StringValue, context: Context) -> None:
    for number in range(int(request.value or 3)):
        await context.write(StringValue(value=str(number)))


def add_probe(unary: Unary, stream: Stream) -> Callable[[grpc.aio.Server], None]:
    handlers: dict[str, Any] = {
        "Call": grpc.unary_unary_rpc_method_handler(unary, **_TYPES),
        "Watch": grpc.unary_stream_rpc_method_handler(stream, **_TYPES),
    }
    return lambda server: server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


@asynccontextmanager
async def serving(
    *,
    unary: Unary = echo,
    stream: Stream = count,
    credentials: grpc.ChannelCredentials | None = None,
    options: Any = (),
    **environ: str,
) -> AsyncIterator[Probe]:
    """Starts a server that is ready, on a free port of loopback unless `environ` says otherwise."""
    settings = load_settings({"MODE": "local", "LISTEN_ADDRESS": "localhost:0", **environ})
    readiness = Readiness()
    services = add_probe(unary, stream)
    async with running_server(settings, add_services=services, service_names=[SERVICE], readiness=readiness) as server:
        readiness.set_serving()
        async with (
            grpc.aio.insecure_channel(server.addresses[0], options=options)
            if credentials is None
            else grpc.aio.secure_channel(server.address, credentials, options=options)
        ) as channel:
            yield Probe(server, readiness, channel)


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    """Reads a call to its end, which must be a failure."""
    try:
        if isinstance(call, grpc.aio.UnaryStreamCall | grpc.aio.StreamStreamCall):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")
