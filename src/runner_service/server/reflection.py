"""gRPC server reflection, as v1 and as v1alpha, which older clients ask for. The messages of both are the same."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

V1_SERVICE = "grpc.reflection.v1.ServerReflection"

_V1_FILE = "grpc/reflection/v1/reflection.proto"
_V1_PACKAGE, _V1ALPHA_PACKAGE = "grpc.reflection.v1", "grpc.reflection.v1alpha"


def add_reflection(server: grpc.aio.Server, service_names: Sequence[str]) -> None:
    """Adds reflection of the services and of itself."""
    _add_v1_descriptors()
    servicer: Any = reflection.aio.ReflectionServicer((*service_names, V1_SERVICE, reflection.SERVICE_NAME))
    add: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    add(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(V1_SERVICE, {"ServerReflectionInfo": handler}),)
    )


def _add_v1_descriptors() -> None:
    """Makes the description of v1, which no package brings, from that of v1alpha."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_V1_FILE)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.name, file.package = _V1_FILE, _V1_PACKAGE
        for field in (field for message in file.message_type for field in message.field):
            if field.type_name:  # setting an empty one would make it a message
                field.type_name = field.type_name.replace(f".{_V1ALPHA_PACKAGE}.", f".{_V1_PACKAGE}.")
        for method in (method for service in file.service for method in service.method):
            method.input_type = method.input_type.replace(_V1ALPHA_PACKAGE, _V1_PACKAGE)
            method.output_type = method.output_type.replace(_V1ALPHA_PACKAGE, _V1_PACKAGE)
        pool.AddSerializedFile(file.SerializeToString())
