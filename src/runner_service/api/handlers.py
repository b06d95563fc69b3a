"""Handlers of rpcs for grpc. Streams are written as bytes: events are serialised once, for the log."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def stream_handler(method: Callable[[Any, Context], Awaitable[None]], request: type[Any]) -> Handler:
    """Returns the handler of a method that writes frames."""
    return grpc.unary_stream_rpc_method_handler(method, request_deserializer=request.FromString)


def unary_handler(method: Callable[[Any, Context], Awaitable[Any]], request: type[Any]) -> Handler:
    """Returns the handler of a method that returns a response."""
    return grpc.unary_unary_rpc_method_handler(
        method, request_deserializer=request.FromString, response_serializer=lambda message: message.SerializeToString()
    )
