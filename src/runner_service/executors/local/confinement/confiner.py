"""Finds out how this machine can confine, proves it once, and opens cells."""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from runner_service.executors.confinement import Confinement, ConfinementInForce
from runner_service.executors.local.confinement import probing
from runner_service.executors.local.confinement.cell import Cell, CellSpec
from runner_service.executors.local.confinement.file_rules import FileRules, file_rules
from runner_service.executors.local.confinement.git import GitPaths, git_paths
from runner_service.executors.local.confinement.hidden import hidden_paths
from runner_service.executors.local.confinement.identities import Identity, identities_of
from runner_service.executors.local.confinement.landlock import (
    ThreadSource,
    gaps_of_thread,
    landlock_mechanism,
    thread_rules,
)
from runner_service.executors.local.confinement.mounts import Mounts, PrivateDirectories, plan, service_code_below
from runner_service.executors.local.confinement.remedies import remedy_for, remedy_for_missing
from runner_service.executors.local.supervisor_client import SupervisorClient
from runner_service.executors.local.supervisor_process import SupervisorProcess
from runner_service.executors.protocol import ConfinementError, SandboxError
from runner_service.executors.supervisor.watchdog import Quota

_OLDEST_BWRAP = (0, 8)
_PROBE_LEVEL = Confinement(files="workspace", network="none")
_GAPS_WITH_NETWORK = ("loopback",)
_GAPS_WITHOUT_STRICT = ("unix-sockets-elsewhere",)
"""Sockets outside /run, /tmp and what is hidden: a read-only mount does not keep anybody from connecting."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service confines: its state, the user's home, and files of the service that nobody else may see."""

    state_dir: Path
    home: str
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ability:
    """How this machine can confine: a mechanism with its gaps, or a reason why not and what to do about it."""

    mechanism: str = "none"
    gaps: tuple[str, ...] = ()
    reason: str = ""
    remedy: str = ""
    is_thread: bool = False
    """Whether it is a restricted thread; `reason` then says why it is no cell."""


class Confiner:
    """Opens the cells of one service. Its own probe has to have succeeded first."""

    def __init__(self, place: Place, *, grace: float, quota: Quota, shared: SupervisorProcess | None = None) -> None:
        self._place = place
        self._shared = shared
        self._grace = grace
        self._quota = quota
        self._probing: asyncio.Task[Ability] | None = None
        self._bwrap = ""
        self._numbers = count(1)

    async def ability(self) -> Ability:
        """Returns how this machine can confine; the first call tries it."""
        if self._probing is None:
            self._probing = asyncio.create_task(self._probe(), name="confinement-probe")
        return await asyncio.shield(self._probing)

    async def in_force(self, asked: Confinement) -> ConfinementInForce:
        """Returns what is in force for `asked`. Raises ConfinementError when it cannot be had."""
        if not asked:
            return ConfinementInForce()
        ability = await self.ability()
        if ability.mechanism == "none":
            raise ConfinementError(f"confinement {asked.files} cannot be had here: {ability.reason}; {ability.remedy}")
        if ability.is_thread:
            try:
                gaps = await asyncio.to_thread(gaps_of_thread, asked)
            except ConfinementError as error:
                raise ConfinementError(f"{error}, and there are none: {ability.reason}") from error
            return ConfinementInForce(asked.files, asked.network, ability.mechanism, gaps)
        gaps = (*ability.gaps, *_GAPS_WITH_NETWORK) if asked.network == "all" else ()
        if asked.files != "strict":
            gaps += _GAPS_WITHOUT_STRICT
        return ConfinementInForce(asked.files, asked.network, ability.mechanism, gaps)

    def file_rules(self, asked: Confinement, root: str) -> FileRules:
        """Returns the rules of the file tools. Blocks on the file system."""
        hidden = hidden_paths(self._place.home, self._secrets())
        return file_rules(
            asked,
            root=root,
            hidden=hidden,
            repositories=git_paths(root).writable,
            service_code=service_code_below(root),
        )

    def cell(
        self,
        asked: Confinement,
        *,
        root: str,
        scope_root: str,
        private: PrivateDirectories,
        home_cache: str,
        on_open: Callable[[SupervisorClient, Mapping[str, object]], Awaitable[None]],
    ) -> Cell:
        """Returns a cell, not open yet. `root` and `scope_root` are real paths."""

        def mounts() -> tuple[Sequence[str], Mapping[str, Identity]]:
            planned = self._plan(asked, root, scope_root, private, home_cache)
            identities = identities_of(planned.shown())
            return planned.arguments(), identities

        return Cell(CellSpec(self._bwrap, mounts, asked.network, self._grace, self._quota, self._next_tag()), on_open)

    def thread(self, asked: Confinement, *, root: str, scope_root: str, private: PrivateDirectories) -> ThreadSource:
        """Returns a restricted thread, not made yet. Blocks on the file system.

        Raises:
            ConfinementError: it cannot hold the level.
        """
        if self._shared is None:
            raise ConfinementError("there is no supervisor to start a restricted thread in")
        mounts = self._plan(asked, root, scope_root, private, "")
        paths = thread_rules(mounts, root, [private.temporary, private.cache])
        return ThreadSource(self._shared, {"paths": paths, "has_network": asked.network == "all"}, private.temporary)

    def _plan(
        self, asked: Confinement, root: str, scope_root: str, private: PrivateDirectories, home_cache: str
    ) -> Mounts:
        secrets = self._secrets()
        return plan(
            asked,
            root=root,
            scope_root=scope_root,
            home=os.path.realpath(self._place.home),
            hidden=hidden_paths(self._place.home, secrets),
            secrets=secrets,
            private=private,
            home_cache=home_cache,
            git=git_paths(root) if asked.files != "read_only" else GitPaths(),
        )

    def _next_tag(self) -> int:
        cells = self._shared.cells if self._shared else None
        return cells.low + (next(self._numbers) - 1) % (cells.high - cells.low) + 1 if cells else 0

    def _secrets(self) -> list[str]:
        return [os.path.realpath(path) for path in (str(self._place.state_dir), *self._place.secrets)]

    async def _probe(self) -> Ability:
        cell = await self._probe_cell()
        mechanism = landlock_mechanism()
        if cell.mechanism != "none" or not mechanism or self._shared is None:
            return cell
        why = f"{cell.reason}; {cell.remedy}"
        thread = await self._try(self._try_thread_in)
        if thread.reason:
            return replace(cell, reason=f"{cell.reason}; nor can a restricted thread: {thread.reason}")
        return Ability(mechanism=mechanism, reason=why, is_thread=True)

    async def _probe_cell(self) -> Ability:
        found = await asyncio.to_thread(shutil.which, "bwrap") if sys.platform == "linux" else None
        if found is None:
            reason = "bwrap is not on the PATH" if sys.platform == "linux" else f"{sys.platform} has no namespaces"
            return Ability(reason=reason, remedy=remedy_for_missing() if sys.platform == "linux" else "use Linux")
        self._bwrap = found
        version = await _version(found)
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_BWRAP:
            return Ability(reason=f"bubblewrap {version} is too old", remedy=remedy_for_missing())
        found_out = await self._try(self._try_cell_in)
        return found_out if found_out.reason else replace(found_out, mechanism=f"bwrap {version}")

    async def _try(self, attempt: Callable[[Path], Awaitable[Ability]]) -> Ability:
        directory = Path(
            await asyncio.to_thread(tempfile.mkdtemp, prefix=".confinement-probe-", dir=probing.outside_of_tmp())
        )
        try:
            return await attempt(directory)
        except SandboxError as error:
            reason = str(error)
            return Ability(reason=reason, remedy=await asyncio.to_thread(remedy_for, reason))
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _try_thread_in(self, directory: Path) -> Ability:
        private = await asyncio.to_thread(probing.prepare, directory, self._place.state_dir)
        root = str(directory / "root")
        thread = await asyncio.to_thread(lambda: self.thread(_PROBE_LEVEL, root=root, scope_root=root, private=private))
        try:
            probing.require_held(
                await probing.tried_everything(
                    thread, root, str(directory), str(self._place.state_dir / probing.PROBE_FILE)
                )
            )
        finally:
            thread.close()
        return Ability()

    async def _try_cell_in(self, directory: Path) -> Ability:
        said: dict[str, object] = {}

        async def on_open(_: SupervisorClient, ready: Mapping[str, object]) -> None:
            said.update(ready)

        private = await asyncio.to_thread(probing.prepare, directory, self._place.state_dir)
        root = str(directory / "root")
        cell = self.cell(
            _PROBE_LEVEL,
            root=root,
            scope_root=root,
            private=private,
            home_cache="",
            on_open=on_open,
        )
        try:
            probing.require_held(
                await probing.tried_everything(
                    cell, root, str(directory), str(self._place.state_dir / probing.PROBE_FILE)
                )
            )
        finally:
            await cell.close()
        gaps = said.get("gaps")
        return Ability(gaps=tuple(map(str, gaps)) if isinstance(gaps, list) else ())


async def _version(bwrap: str) -> str:
    process = await asyncio.create_subprocess_exec(bwrap, "--version", stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    found = re.search(r"\d+(\.\d+)+", said.decode("ascii", "replace"))
    return found[0] if found else "0.0"
