"""Installs skills: files into the sandbox, text into the prompt."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Sequence

from runner_service.agent.archives import ArchivedFile, ArchiveError, unpack_zip
from runner_service.agent.interface import AgentRun
from runner_service.executors.protocol import FileError
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

DIRECTORY = "bin/skills"
"""Relative to the sandbox root; each skill has a directory named by its version."""

_TEXT = "SKILL.md"
_CHUNK_BYTES = 1024 * 1024


async def install_skills(run: AgentRun, skills: Sequence[runner_pb2.Skill]) -> str:
    """Writes the files of skills into the sandbox, and returns their part of the prompt; empty without skills.

    Files that cannot be installed are left out, with a notice.
    """
    parts = [await _install(run, each) for each in skills]
    if not parts:
        return ""
    head = "# Skills\n\nFollow these instructions where they apply. Their files are where LOCATION says."
    return "\n\n".join([head, *parts])


async def _install(run: AgentRun, skill: runner_pb2.Skill) -> str:
    location = f"{run.sandbox.root.rstrip('/')}/{DIRECTORY}/{_version(skill)}"
    files = await _files(run, skill)
    try:
        for file in files:
            await run.sandbox.upload(
                f"{location}/{file.path}", _chunks(file.data), mode=0o755 if file.executable else 0o644
            )
    except FileError as error:
        _publish_missing(run, "SKILL_FILES_MISSING", f"the files of skill {skill.name} could not be written: {error}")
        return f"## Skill: {skill.name}\n\n{skill.content}"
    return f"## Skill: {skill.name}\n\nLOCATION: {location}/\n\n{skill.content}"


async def _files(run: AgentRun, skill: runner_pb2.Skill) -> list[ArchivedFile]:
    text = ArchivedFile(_TEXT, skill.content.encode(), executable=False)
    if not skill.archive:
        return [text]
    try:
        files = await asyncio.to_thread(unpack_zip, skill.archive)
    except ArchiveError as error:
        _publish_missing(run, "SKILL_FILES_MISSING", f"the files of skill {skill.name} were left out: {error}")
        return [text]
    return [*(file for file in files if file.path != _TEXT), text]


def _version(skill: runner_pb2.Skill) -> str:
    if skill.version:
        return skill.version
    return hashlib.sha256(skill.content.encode() + b"\0" + skill.archive).hexdigest()[:32]


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _CHUNK_BYTES):
        yield data[start : start + _CHUNK_BYTES]


def _publish_missing(run: AgentRun, code: str, text: str) -> None:
    text = run.redactor.text(text)
    logger.warning("skill_incomplete code=%s text=%s", code, text)
    run.events.publish(event_pb2.Notice(level=event_pb2.Notice.LEVEL_WARNING, code=code, text=text))
