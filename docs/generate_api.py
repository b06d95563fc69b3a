"""Writes docs/api.md from the comments of the protos. With --check, only tells whether it has drifted."""

import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc  # type: ignore[import-untyped]  # it has no types

PAGE = Path(__file__).with_name("api.md")
PROTOS = Path(__file__).parent.parent / "proto"
PACKAGE = "runner_service.v1"
FILES = sorted(str(file.relative_to(PROTOS)) for file in PROTOS.glob("runner_service/v1/*.proto"))

INTRODUCTION = """\
# The API

This page is generated from the comments of [the protos](../proto/runner_service/v1) by `make docs`. The service also
speaks `grpc.health.v1` (see [operations](operations.md#health)) and reflection, so that grpcurl needs no files.
"""

_STATUS = re.compile(r"[A-Z][A-Z_]+: ")
_SERVICE, _MESSAGE, _ENUM = 6, 4, 5  # the fields of FileDescriptorProto, which lead to a comment
_RPC, _FIELD, _NESTED, _NESTED_ENUM, _VALUE = 2, 2, 3, 4, 2  # the fields of those below it


class Comments:
    """The comments of a file, by the path that leads to what they describe."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._found = {tuple(each.path): each.leading_comments for each in file.source_code_info.location}

    def paragraphs(self, path: tuple[int, ...]) -> list[str]:
        """Returns the comment's paragraphs, a line each. A line that begins with a status is one of its own."""
        paragraphs = [""]
        for line in map(str.strip, self._found.get(path, "").splitlines()):
            if not line or _STATUS.match(line):
                paragraphs.append("")
            paragraphs[-1] += f" {line}" if paragraphs[-1] else line
        return [paragraph for paragraph in paragraphs if paragraph]


class Part(NamedTuple):
    """A message or enum with its full name within the package, and where its comments are."""

    name: str
    kind: DescriptorProto | EnumDescriptorProto
    comments: Comments
    path: tuple[int, ...]


def described() -> FileDescriptorSet:
    """Returns the protos as descriptors, comments included."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "protos"
        includes = ["-I", str(PROTOS), "-I", str(files("grpc_tools") / "_proto")]
        if protoc.main(["protoc", *includes, f"--descriptor_set_out={target}", "--include_source_info", *FILES]):
            raise SystemExit("the protos cannot be compiled")
        return FileDescriptorSet.FromString(target.read_bytes())


def page() -> str:
    """Returns the page as it should be."""
    blocks = [INTRODUCTION]
    parts: list[Part] = []
    for file in described().file:
        comments = Comments(file)
        for index, service in enumerate(file.service):
            blocks += service_blocks(service, comments, (_SERVICE, index))
        parts += parts_of(file, comments)
    blocks.append("## Messages\n")
    for part in parts:
        blocks += part_blocks(part)
    return "\n".join(blocks)


def parts_of(file: FileDescriptorProto, comments: Comments) -> Iterator[Part]:
    """Yields the messages and enums of a file: the messages first, each followed by what is nested in it."""
    for index, message in enumerate(file.message_type):
        yield from message_parts(message, comments, (_MESSAGE, index), message.name)
    for index, enum in enumerate(file.enum_type):
        yield Part(enum.name, enum, comments, (_ENUM, index))


def message_parts(message: DescriptorProto, comments: Comments, path: tuple[int, ...], name: str) -> Iterator[Part]:
    """Yields a message and what is nested in it, but for the entries of maps."""
    yield Part(name, message, comments, path)
    for index, enum in enumerate(message.enum_type):
        yield Part(f"{name}.{enum.name}", enum, comments, (*path, _NESTED_ENUM, index))
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from message_parts(nested, comments, (*path, _NESTED, index), f"{name}.{nested.name}")


def service_blocks(service: ServiceDescriptorProto, comments: Comments, path: tuple[int, ...]) -> list[str]:
    """Returns the text of a service and its rpcs."""
    blocks = [f"## {PACKAGE}.{service.name}\n", *as_text(comments.paragraphs(path))]
    for index, rpc in enumerate(service.method):
        stream = "stream of " if rpc.server_streaming else ""
        blocks.append(f"### {rpc.name}\n")
        blocks.append(f"{link(rpc.input_type)} → {stream}{link(rpc.output_type)}\n")
        blocks += as_text(comments.paragraphs((*path, _RPC, index)))
    return blocks


def part_blocks(part: Part) -> list[str]:
    """Returns the text of a message or an enum."""
    rows = field_rows(part, part.kind) if isinstance(part.kind, DescriptorProto) else value_rows(part, part.kind)
    return [f"### {part.name}\n", *as_text(part.comments.paragraphs(part.path)), *table(rows)]


def field_rows(part: Part, message: DescriptorProto) -> list[tuple[str, ...]]:
    """Returns a row for each field, below a head; nothing when there are no fields."""
    rows: list[tuple[str, ...]] = []
    for index, field in enumerate(message.field):
        text = " ".join(part.comments.paragraphs((*part.path, _FIELD, index)))
        if field.HasField("oneof_index") and not field.proto3_optional:
            text = f"*One of `{message.oneof_decl[field.oneof_index].name}`.* {text}"
        rows.append((f"`{field.name}` = {field.number}", type_of(field, message), text))
    return [("field", "type", ""), *rows] if rows else []


def value_rows(part: Part, enum: EnumDescriptorProto) -> list[tuple[str, ...]]:
    """Returns a row for each value of an enum, below a head."""
    rows = [
        (f"`{value.name}` = {value.number}", " ".join(part.comments.paragraphs((*part.path, _VALUE, index))))
        for index, value in enumerate(enum.value)
    ]
    return [("value", ""), *rows]


def type_of(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """Returns the type as the proto writes it, linked to where it is described."""
    for nested in message.nested_type:
        if nested.options.map_entry and field.type_name.endswith(f".{message.name}.{nested.name}"):
            key, value = (type_of(each, nested) for each in nested.field)
            return f"map of {key} to {value}"
    name = link(field.type_name) if field.type_name else FieldDescriptorProto.Type.Name(field.type)[5:].lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


def link(full_name: str) -> str:
    """Returns a link to a type of ours, and the name of any other."""
    name = full_name.removeprefix(".")
    if not name.startswith(f"{PACKAGE}."):
        return f"`{name}`"
    name = name.removeprefix(f"{PACKAGE}.")
    return f"[{name}](#{name.lower().replace('.', '')})"


def as_text(paragraphs: Sequence[str]) -> Iterator[str]:
    """Yields paragraphs as Markdown: those that begin with a status are a list."""
    for index, paragraph in enumerate(paragraphs):
        if not _STATUS.match(paragraph):
            yield f"{paragraph}\n"
            continue
        status, _, text = paragraph.partition(": ")
        goes_on = index + 1 < len(paragraphs) and _STATUS.match(paragraphs[index + 1])
        yield f"- `{status}`: {text}" + ("" if goes_on else "\n")


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yields a table, the first row its head; nothing when there are no rows."""
    for index, row in enumerate(rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
        if not index:
            yield f"|{' --- |' * len(row)}"
    yield ""


def main() -> int:
    """Writes or checks the page; returns the exit code."""
    wanted = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(wanted)
        return 0
    if PAGE.exists() and PAGE.read_text() == wanted:
        return 0
    print(f"{PAGE.name} has drifted from the protos: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
