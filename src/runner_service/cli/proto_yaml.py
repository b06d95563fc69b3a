"""Reads YAML into protobuf messages. Errors name the file, the line and the field."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from runner_service.cli.errors import CommandError, ExitCode

Converter = Callable[["Reader", yaml.Node], Message | str]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, None: 1}
_INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
_NULL = "tag:yaml.org,2002:null"


class Reader:
    """Reads one file. `converters` read the value of a field, by its full name, in a form of their own."""

    def __init__(self, path: Path, converters: Mapping[str, Converter]) -> None:
        self.path = path
        self._converters = converters

    def root(self) -> yaml.Node:
        """Parses the file. Raises CommandError."""
        try:
            node = yaml.compose(self.path.read_text(), Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise CommandError(f"{self.path} cannot be read: {reason}", ExitCode.USAGE) from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise CommandError(f"{self.path}:{line}: {error.problem}", ExitCode.USAGE) from error
        except yaml.YAMLError as error:
            raise CommandError(f"{self.path}: it is not YAML: {error}", ExitCode.USAGE) from error
        if node is None:
            raise CommandError(f"{self.path} is empty", ExitCode.USAGE)
        return node

    def error(self, node: yaml.Node, text: str) -> CommandError:
        """Returns an error at the line of a node."""
        return CommandError(f"{self.path}:{node.start_mark.line + 1}: {text}", ExitCode.USAGE)

    def entries(self, node: yaml.Node, what: str) -> Iterator[tuple[yaml.Node, str, yaml.Node]]:
        """Yields key node, key and value of a mapping. Raises CommandError if it is none, or has a key twice."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"{what} must be a mapping of fields")
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise self.error(key, f"{name} is there twice")
            seen.add(name)
            yield key, name, value

    def fill(self, message: Message, node: yaml.Node, what: str) -> None:
        """Sets the fields of `message` that a mapping names. Raises CommandError."""
        fields = message.DESCRIPTOR.fields_by_name
        for key, name, value in self.entries(node, what):
            if name not in fields:
                raise self.error(key, unknown_field(name, what, list(fields)))
            if value.tag != _NULL:
                self.set_field(message, fields[name], value)

    def set_field(self, message: Message, field: Any, node: yaml.Node) -> None:
        """Sets one field, given by its descriptor. Raises CommandError."""
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            self._fill_map(getattr(message, field.name), field.name, entry.fields_by_name["value"], node)
        elif field.is_repeated:
            if not isinstance(node, yaml.SequenceNode):
                raise self.error(node, f"{field.name} must be a list")
            for item in node.value:
                self._add(getattr(message, field.name), field, item)
        elif field.message_type is None:
            setattr(message, field.name, self._scalar(field, node))
        else:
            self._fill_message(getattr(message, field.name), field, node)

    def _add(self, items: Any, field: FieldDescriptor, node: yaml.Node) -> None:
        if field.message_type is None:
            items.append(self._scalar(field, node))
        else:
            self._fill_message(items.add(), field, node)

    def _fill_map(self, items: Any, what: str, value_field: Any, node: yaml.Node) -> None:
        for _, name, value in self.entries(node, what):
            if value_field.message_type is None:
                items[name] = self._scalar(value_field, value)
            else:
                self._fill_message(items[name], value_field, value)

    def _fill_message(self, message: Message, field: FieldDescriptor, node: yaml.Node) -> None:
        message.SetInParent()
        if convert := self._converters.get(field.full_name):
            converted = convert(self, node)
            if isinstance(converted, Message):
                message.CopyFrom(converted)
                return
        if isinstance(message, Duration):
            message.FromNanoseconds(int(self._seconds(field, node) * 1e9))
        else:
            self.fill(message, node, field.name)

    def _seconds(self, field: FieldDescriptor, node: yaml.Node) -> float:
        match = _DURATION.fullmatch(node.value) if isinstance(node, yaml.ScalarNode) else None
        if match is None:
            raise self.error(node, f"{field.name} must be a duration, such as 90s, 10m or 1h")
        return float(match[1]) * _SECONDS[match[2]]

    def _scalar(self, field: FieldDescriptor, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(node, f"{field.name} must be a single value")
        if field.type == FieldDescriptor.TYPE_BYTES:
            raise self.error(node, f"{field.name} cannot be written in a file")
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            convert = self._converters.get(field.full_name)
            return convert(self, node) if convert else node.value
        try:
            return _number(field, node.value)
        except ValueError:
            raise self.error(node, f"{field.name} must be {_kind(field)}, not {node.value!r}") from None


def unknown_field(name: str, what: str, known: list[str]) -> str:
    """Returns what is wrong with a name that is no field."""
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]}?" if close else f"; it has {', '.join(known)}"
    return f"{what} has no field {name}{hint}"


def _number(field: FieldDescriptor, text: str) -> float | int | bool:
    if field.cpp_type in _INTEGERS:
        return int(text.replace("_", ""))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text.lower() not in {"true", "false"}:
            raise ValueError(text)
        return text.lower() == "true"
    return float(text)


def _kind(field: FieldDescriptor) -> str:
    if field.cpp_type in _INTEGERS:
        return "a whole number"
    return "true or false" if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else "a number"


def field_names(descriptor: Descriptor) -> list[str]:
    """Returns the names of a message's fields."""
    return list(descriptor.fields_by_name)
