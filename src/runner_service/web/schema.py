"""The protos as a schema by which the page decodes messages, so that the service never turns events into JSON."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from runner_service.v1 import agent_runner_pb2 as runner_pb2

_SCALARS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
}


def build_schema() -> dict[str, Any]:
    """Returns `messages`, by name and field number, and `enums`, by name and number, of all responses."""
    messages: dict[str, Any] = {}
    enums: dict[str, Any] = {}
    waiting = [method.output_type for method in runner_pb2.DESCRIPTOR.services_by_name["AgentRunnerService"].methods]
    while waiting:
        message = waiting.pop()
        if message.full_name in messages:
            continue
        messages[message.full_name] = {field.number: _field(field) for field in message.fields}
        for used in _used_by(message):
            if isinstance(used, Descriptor):
                waiting.append(used)
            else:
                enums[used.full_name] = {value.number: value.name for value in used.values}
    return {"messages": messages, "enums": enums}


def _field(field: FieldDescriptor) -> dict[str, Any]:
    described: dict[str, Any] = {"name": field.name, "type": _SCALARS.get(field.type, "number")}
    if used := field.message_type or field.enum_type:
        described["type"] = used.full_name
    if field.is_repeated:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        described["map" if is_map else "repeated"] = True
    return described


def _used_by(message: Descriptor) -> Iterator[Descriptor | EnumDescriptor]:
    for field in message.fields:
        if used := field.message_type or field.enum_type:
            yield used
