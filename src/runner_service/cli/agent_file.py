"""Agents as files: the proto's `Agent`, and `limits`, as YAML.

Skills are directories; `instructions` may be `@FILE`; `model` may be `provider/name`. Paths are relative to the file.
"""

import io
import shlex
import zipfile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import yaml

from runner_service.cli.errors import CommandError, ExitCode
from runner_service.cli.model_names import model_of
from runner_service.cli.proto_yaml import Reader, field_names, unknown_field
from runner_service.v1 import agent_runner_pb2 as runner_pb2

LIMITS_FIELD = "limits"
SKILL_FILE = "SKILL.md"

_MAX_SKILL_BYTES = 64 << 20


class AgentFile(NamedTuple):
    """What a file says."""

    agent: runner_pb2.Agent
    limits: runner_pb2.ExecutionLimits


def read_agent_file(path: Path) -> AgentFile:
    """Reads an agent. Raises CommandError, which names the line."""
    reader = Reader(path, _CONVERTERS)
    agent, limits = runner_pb2.Agent(), runner_pb2.ExecutionLimits()
    fields = agent.DESCRIPTOR.fields_by_name
    for key, name, value in reader.entries(reader.root(), "the agent"):
        if name == LIMITS_FIELD:
            reader.fill(limits, value, name)
        elif name in fields:
            reader.set_field(agent, fields[name], value)
        else:
            raise reader.error(key, unknown_field(name, "the agent", [*field_names(agent.DESCRIPTOR), LIMITS_FIELD]))
    agent.name = agent.name or path.stem
    return AgentFile(agent, limits)


def read_skill(directory: Path) -> runner_pb2.Skill:
    """Reads a directory with SKILL.md and other files. Raises CommandError."""
    try:
        content = (directory / SKILL_FILE).read_text()
        archive = _archive(directory)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CommandError(
            f"skill {directory}: {SKILL_FILE} or a file beside it cannot be read: {reason}", ExitCode.USAGE
        ) from error
    return runner_pb2.Skill(name=_skill_name(content) or directory.resolve().name, content=content, archive=archive)


def mcp_server(text: str) -> runner_pb2.McpServer:
    """Returns the MCP server of a command line, or of a URL. Raises CommandError."""
    if text.startswith(("http://", "https://")):
        host = urlsplit(text).hostname or "mcp"
        return runner_pb2.McpServer(name=_server_name(host), http=runner_pb2.HttpServer(url=text))
    try:
        command, *arguments = shlex.split(text)
    except ValueError as error:
        raise CommandError(f"--mcp {text}: should be a command or a URL", ExitCode.USAGE) from error
    stdio = runner_pb2.StdioServer(command=command, args=arguments)
    return runner_pb2.McpServer(name=_server_name(Path(command).name), stdio=stdio)


def _server_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text)[:128]


def _archive(directory: Path) -> bytes:
    """Returns a ZIP of the files other than SKILL.md; empty if there are none."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / SKILL_FILE)
    if sum(path.stat().st_size for path in files) > _MAX_SKILL_BYTES:
        raise CommandError(f"skill {directory}: its files have more than {_MAX_SKILL_BYTES >> 20} MiB", ExitCode.USAGE)
    if not files:
        return b""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        for path in files:
            entry = zipfile.ZipInfo(
                path.relative_to(directory).as_posix()
            )  # its fixed time makes the request repeatable
            entry.external_attr = (path.stat().st_mode & 0o777) << 16
            writer.writestr(entry, path.read_bytes())
    return archive.getvalue()


def _skill_name(content: str) -> str:
    """Returns the name in the front matter of SKILL.md; empty if there is none."""
    head, separator, _ = content.removeprefix("---\n").partition("\n---")
    if not (content.startswith("---\n") and separator):
        return ""
    try:
        facts = yaml.safe_load(head)
    except yaml.YAMLError:
        return ""
    return str(facts.get("name") or "") if isinstance(facts, dict) else ""


def _read_text(reader: Reader, node: yaml.Node) -> str:
    text = str(node.value)
    if not text.startswith("@"):
        return text
    try:
        return (reader.path.parent / text[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise reader.error(node, f"{text[1:]} cannot be read: {error}") from error


def _read_skill_node(reader: Reader, node: yaml.Node) -> runner_pb2.Skill | str:
    if not isinstance(node, yaml.ScalarNode):
        return ""  # as the proto has it
    try:
        return read_skill(reader.path.parent / node.value)
    except CommandError as error:
        raise reader.error(node, error.message) from error


def _read_model_node(reader: Reader, node: yaml.Node) -> runner_pb2.Model | str:
    if not isinstance(node, yaml.ScalarNode):
        return ""
    try:
        provider, name = model_of(node.value, is_provider_set=False)
    except CommandError as error:
        raise reader.error(node, error.message.removeprefix("--model ")) from error
    return runner_pb2.Model(provider=provider, name=name)


_PACKAGE = runner_pb2.DESCRIPTOR.package
_CONVERTERS = {
    f"{_PACKAGE}.Agent.instructions": _read_text,
    f"{_PACKAGE}.SubAgent.instructions": _read_text,
    f"{_PACKAGE}.Agent.skills": _read_skill_node,
    f"{_PACKAGE}.SubAgent.skills": _read_skill_node,
    f"{_PACKAGE}.Agent.model": _read_model_node,
}
