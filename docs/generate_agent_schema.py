"""Writes docs/agent.schema.json, by which editors check agent files. With --check, only tells if it has drifted."""

import json
import sys
from pathlib import Path
from typing import Any

from generate_api import Comments, described
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto

FILE = Path(__file__).with_name("agent.schema.json")

_PACKAGE = ".runner_service.v1."
_DURATION = ".google.protobuf.Duration"
_MESSAGE_PATH, _FIELD_PATH = 4, 2
_TYPES = {
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_INT32: "integer",
    FieldDescriptorProto.TYPE_INT64: "integer",
    FieldDescriptorProto.TYPE_DOUBLE: "number",
    FieldDescriptorProto.TYPE_BOOL: "boolean",
}
_SHORT_FORMS = {
    "Agent.model": "Or as a text: `provider/name`.",
    "Agent.skills": "Each is a directory with SKILL.md, relative to this file.",
    "SubAgent.skills": "Each is a directory with SKILL.md, relative to this file.",
    "Agent.instructions": "`@FILE` reads them from a file, relative to this one.",
    "SubAgent.instructions": "`@FILE` reads them from a file, relative to this one.",
}
"""Fields that a file may also have as a text, and what it means."""


class Schemas:
    """Makes a schema of each message that an agent is made of."""

    def __init__(self) -> None:
        self._messages: dict[str, tuple[DescriptorProto, Comments, int]] = {}
        for file in described().file:
            comments = Comments(file)
            for index, message in enumerate(file.message_type):
                self._messages[message.name] = message, comments, index
        self.definitions: dict[str, Any] = {}

    def message(self, name: str) -> dict[str, Any]:
        """Returns the schema of a message by its name in the package."""
        message, comments, index = self._messages[name]
        properties = {}
        for number, field in enumerate(message.field):
            if field.type == FieldDescriptorProto.TYPE_BYTES:
                continue
            text = " ".join(comments.paragraphs((_MESSAGE_PATH, index, _FIELD_PATH, number)))
            short = _SHORT_FORMS.get(f"{name}.{field.name}", "")
            schema = self._field(message, field, has_short_form=bool(short))
            properties[field.name] = {"description": f"{text} {short}".strip(), **schema}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def _field(self, message: DescriptorProto, field: FieldDescriptorProto, *, has_short_form: bool) -> dict[str, Any]:
        entry = next((each for each in message.nested_type if field.type_name.endswith(f".{each.name}")), None)
        if entry is not None:
            return {"type": "object", "additionalProperties": self._value(entry.field[1])}
        value = self._value(field)
        if has_short_form and field.type == FieldDescriptorProto.TYPE_MESSAGE:
            value = {"anyOf": [{"type": "string"}, value]}
        return {"type": "array", "items": value} if field.label == FieldDescriptorProto.LABEL_REPEATED else value

    def _value(self, field: FieldDescriptorProto) -> dict[str, Any]:
        if field.type != FieldDescriptorProto.TYPE_MESSAGE:
            return {"type": _TYPES[field.type]}
        if field.type_name == _DURATION:
            return {"type": ["string", "number"], "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)?$"}
        name = field.type_name.removeprefix(_PACKAGE)
        if name not in self.definitions:
            self.definitions[name] = {}  # so that one that holds itself ends
            self.definitions[name] = self.message(name)
        return {"$ref": f"#/$defs/{name}"}


def schema() -> str:
    """Returns the file as it should be."""
    schemas = Schemas()
    agent = schemas.message("Agent")
    limits = {"description": "Limits of each execution.", **schemas.message("ExecutionLimits")}
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An agent of runner-service, for `run --agent`",
        **agent,
        "$defs": schemas.definitions,
    }
    whole["properties"] = {**agent["properties"], "limits": limits}
    return json.dumps(whole, indent=2) + "\n"


def main() -> int:
    """Writes or checks the file; returns the exit code."""
    wanted = schema()
    if "--check" not in sys.argv[1:]:
        FILE.write_text(wanted)
        return 0
    if FILE.exists() and FILE.read_text() == wanted:
        return 0
    print(f"{FILE.name} has drifted from the protos: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
