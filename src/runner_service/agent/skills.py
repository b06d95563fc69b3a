"""Installs skills: files into the sandbox, text into the prompt."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from runner_service.agent.archives import Archive, ArchiveError, Budget, open_archive
from runner_service.agent.interface import AgentRun
from runner_service.executors.protocol import FileError
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

DIRECTORY = "bin/skills"
"""Relative to the sandbox root; each skill has a directory named by its version."""

_TEXT = "SKILL.md"


class SkillInstaller:
    """Installs the skills of a run's agent and sub-agents, equal ones once, within one budget for all of them."""

    def __init__(self, run: AgentRun) -> None:
        self._run = run
        self._budget = Budget()
        self._installed: dict[tuple[str, str], bool] = {}

    async def install(self, skills: Sequence[runner_pb2.Skill]) -> str:
        """Writes the files of skills into the sandbox, and returns their part of the prompt; empty without skills.

        Files that cannot be installed are left out, with a notice.
        """
        parts = [await self._prompt_of(each) for each in skills]
        if not parts:
            return ""
        head = "# Skills\n\nFollow these instructions where they apply. Their files are where LOCATION says."
        return "\n\n".join([head, *parts])

    async def _prompt_of(self, skill: runner_pb2.Skill) -> str:
        digest = await asyncio.to_thread(_digest, skill)
        location = f"{self._run.sandbox.root.rstrip('/')}/{DIRECTORY}/{skill.version or digest[:32]}"
        key = location, digest
        if key not in self._installed:
            self._installed[key] = await self._write(skill, location)
        if not self._installed[key]:
            return f"## Skill: {skill.name}\n\n{skill.content}"
        return f"## Skill: {skill.name}\n\nLOCATION: {location}/\n\n{skill.content}"

    async def _write(self, skill: runner_pb2.Skill, location: str) -> bool:
        try:
            if skill.archive and (archive := await self._open(skill)):
                for file in archive.files:
                    if file.path != _TEXT:
                        mode = 0o755 if file.executable else 0o644
                        async with aclosing(archive.chunks(file)) as chunks:
                            await self._run.sandbox.upload(f"{location}/{file.path}", chunks, mode=mode)
            await self._run.sandbox.upload(f"{location}/{_TEXT}", _once(skill.content.encode()))
        except FileError as error:
            self._publish_missing(f"the files of skill {skill.name} could not be written: {error}")
            return False
        return True

    async def _open(self, skill: runner_pb2.Skill) -> Archive | None:
        try:
            return await open_archive(skill.archive, self._budget)
        except ArchiveError as error:
            self._publish_missing(f"the files of skill {skill.name} were left out: {error}")
            return None

    def _publish_missing(self, text: str) -> None:
        code = "SKILL_FILES_MISSING"
        text = self._run.redactor.text(text)
        logger.warning("skill_incomplete code=%s text=%s", code, text)
        self._run.events.publish(event_pb2.Notice(level=event_pb2.Notice.LEVEL_WARNING, code=code, text=text))


def _digest(skill: runner_pb2.Skill) -> str:
    return hashlib.sha256(skill.content.encode() + b"\0" + skill.archive).hexdigest()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data
