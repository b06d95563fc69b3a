"""The local executor: runs commands as child processes in a directory of this machine."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from secrets import token_hex
from typing import Literal, NamedTuple

from runner_service.executors.confinement import Confinement, ConfinementInForce
from runner_service.executors.local.commands import Commands, SupervisorSource
from runner_service.executors.local.confinement.cells import CacheBounds, Cells, plain_name
from runner_service.executors.local.confinement.confiner import Confiner, Place
from runner_service.executors.local.confinement.file_rules import FileRules
from runner_service.executors.local.deep_removal import remove_whole
from runner_service.executors.local.environment import command_environment, inherited_environment
from runner_service.executors.local.files import Files
from runner_service.executors.local.restoring import LocalRestorer
from runner_service.executors.local.ripgrep import Ripgrep
from runner_service.executors.local.roots import existing_root, remove_root, resolve_root
from runner_service.executors.local.supervisor_process import SupervisorProcess, supervisor_process
from runner_service.executors.local.threads import FileThreads
from runner_service.executors.local.tracking import LocalTracking
from runner_service.executors.protocol import Command, CommandResult, SandboxError, SandboxSpec
from runner_service.executors.supervisor.watchdog import Quota

Scope = Literal["shared", "session"]

_FILE_THREADS = 16
_NO_QUOTA = Quota()
_DEFAULT_CACHE_BOUNDS = CacheBounds()


class Programs(NamedTuple):
    """Paths of the programs that the executor uses itself."""

    shell: str
    ripgrep: str | None


class LocalSandbox(Files):
    """One execution's view of the directory: its files, and its own commands."""

    def __init__(
        self,
        root: str,
        commands: Commands,
        threads: FileThreads,
        ripgrep: Ripgrep | None,
        rules: FileRules | None,
        *,
        scan_directory: str,
        is_confined: bool,
        tracks_home: bool,
    ) -> None:
        super().__init__(root, threads, ripgrep, rules)
        self._scan_directory = scan_directory
        self._is_confined = is_confined
        self._tracks_home = tracks_home
        self._path = root
        self._commands = commands

    @property
    def root(self) -> str:
        """The real path of the directory."""
        return self._path

    async def run(self, command: Command) -> CommandResult:
        """Runs a command in the directory."""
        return await self._commands.run(command)

    @property
    def tracking(self) -> LocalTracking | None:
        """Implements `Sandbox`; None if all files are read-only."""
        if self._root.rules.is_read_only:
            return None
        return LocalTracking(
            self._commands,
            self._recorder,
            root=self._path,
            directory=self._scan_directory,
            is_confined=self._is_confined,
            allows_home=self._tracks_home,
        )

    @property
    def keeps_commands(self) -> bool:
        """No: they end with the service."""
        return False

    async def resume(self, command: Command) -> CommandResult:
        """Reports the command as lost: none outlives the service."""
        del command
        return CommandResult(
            exit_code=1, lost="the service was stopped while this ran, and how far it came is not known"
        )


class LocalExecutor:
    """Opens sandboxes in `root`: the same for all when shared, else one directory below it for each session."""

    sandbox_type = "filesystem"

    def __init__(
        self,
        supervisor: SupervisorProcess,
        threads: FileThreads,
        cells: Cells,
        programs: Programs,
        *,
        root: Path,
        scope: Scope,
        scans: Path,
        tracks_home: bool,
    ) -> None:
        self._scans = scans
        self._tracks_home = tracks_home
        self._supervisor = supervisor
        self._cells = cells
        self._in_use: set[SupervisorSource] = set()
        self._threads = threads
        self._root = root
        self._scope = scope
        self._programs = programs
        self._inherited = inherited_environment()

    @property
    def process_control(self) -> str:
        """What is in force on this machine, such as `subreaper+tag+guardian` or `process-group+guardian`."""
        return self._supervisor.control

    async def confinement_for(self, asked: Confinement) -> ConfinementInForce:
        """Returns what would be in force for an execution; the first call for any level tries what there is.

        Raises:
            ConfinementError: it cannot be had here; the text says why and what to do.
        """
        return await self._cells.confiner.in_force(asked)

    def root_for(self, spec: SandboxSpec) -> str:
        """Implements `Executor`."""
        return os.path.realpath(self._directory(spec))

    async def delete(self, spec: SandboxSpec) -> None:
        """Implements `Executor`. A directory that all executions share is the user's, and stays."""
        if self._scope == "session":
            await remove_root(self._directory(spec))

    async def release_ended(self, spec: SandboxSpec) -> None:
        """Implements `Executor`: files stay where they are, and no process outlives the service."""

    def skip_grace(self) -> None:
        """Implements `Executor`."""
        for supervisor in {self._supervisor, *self._in_use}:
            with suppress(SandboxError):  # a cell that is not open yet
                supervisor.client.skip_grace()

    @asynccontextmanager
    async def open_restorer(self, spec: SandboxSpec, root: str) -> AsyncIterator[LocalRestorer]:
        """Implements `Executor`."""
        del spec
        yield LocalRestorer(root, self._threads)

    @asynccontextmanager
    async def open(self, spec: SandboxSpec) -> AsyncIterator[LocalSandbox]:
        """Opens the sandbox of an execution, and ends its processes on exit.

        Raises:
            SandboxError: the directory cannot be made.
        """
        await self.confinement_for(spec.confinement)
        root = await existing_root(self._directory(spec), self._threads)
        environment = command_environment(spec.environment, root=root, inherited=self._inherited)
        rules = await self._cells.file_rules(spec.confinement, root)
        async with self._supervisor_for(spec, root, environment) as supervisor:
            self._in_use.add(supervisor)
            commands = Commands(
                supervisor, shell=self._programs.shell, root=root, environment=environment, notify=spec.notify
            )
            ripgrep = Ripgrep(self._programs.ripgrep, commands) if self._programs.ripgrep else None
            try:
                yield LocalSandbox(
                    root,
                    commands,
                    self._threads,
                    ripgrep,
                    rules,
                    scan_directory=f"{supervisor.temporary_directory or self._scans}/scan-{token_hex(8)}",
                    is_confined=bool(supervisor.temporary_directory),
                    tracks_home=self._tracks_home,
                )
            finally:
                await commands.close()
                self._in_use.discard(supervisor)

    def _supervisor_for(
        self, spec: SandboxSpec, root: str, environment: dict[str, str]
    ) -> AbstractAsyncContextManager[SupervisorSource]:
        if not spec.confinement:
            return nullcontext(self._supervisor)
        return self._cells.open(spec, root=root, scope_root=str(self._root), environment=environment)

    def _directory(self, spec: SandboxSpec) -> Path:
        if self._scope == "shared":
            return self._root
        if spec.session_id:
            return self._root / plain_name(spec.session_id)
        # No session can be named like this, so none shares its directory with an execution that belongs to no session.
        return self._root / f"+{plain_name(spec.execution_id)}"


@asynccontextmanager
async def local_executor(
    *,
    root: Path,
    state_dir: Path,
    scope: Scope = "shared",
    terminate_grace: float = 2.0,
    quota: Quota = _NO_QUOTA,
    secrets: Sequence[Path] = (),
    cache_bounds: CacheBounds = _DEFAULT_CACHE_BOUNDS,
    tracks_home: bool = False,
    on_supervisor_change: Callable[[bool], None] = lambda _: None,
) -> AsyncIterator[LocalExecutor]:
    """Opens the executor of this machine, and ends every process that it started in the end.

    Args:
        root: where commands start and files are; made, if it is missing, with the first sandbox.
        state_dir: holds the note by which the next start finds what a crash left running; one service each.
        scope: whether all executions share `root`, or each session has a directory below it.
        terminate_grace: seconds between SIGTERM and SIGKILL.
        quota: what the commands of each sandbox may use.
        secrets: files of the service that no confined execution may see, beside `state_dir`.
        on_supervisor_change: called with False when the supervisor is lost, with True when there is another.
        cache_bounds: how much the private directories of confined sessions may take, and for how long.
        tracks_home: whether changes are tracked if the root is the home directory.

    Raises:
        SandboxError: a directory cannot be made or is in use, there is no shell, or the supervisor does not start.
    """
    programs = await asyncio.to_thread(_find_programs)
    real = await asyncio.to_thread(resolve_root, root)
    place = Place(state_dir, os.environ.get("HOME") or str(real), tuple(map(str, secrets)))
    async with supervisor_process(state_dir, terminate_grace, quota, on_supervisor_change) as supervisor:
        confiner = Confiner(place, grace=terminate_grace, quota=quota, shared=supervisor)
        cells = Cells(confiner, state_dir, cache_bounds)
        async with _scan_directory(state_dir) as scans:
            threads = FileThreads(_FILE_THREADS)
            try:
                yield LocalExecutor(
                    supervisor, threads, cells, programs, root=real, scope=scope, scans=scans, tracks_home=tracks_home
                )
            finally:
                threads.shutdown()


@asynccontextmanager
async def _scan_directory(state_dir: Path) -> AsyncIterator[Path]:
    """Removes what searches for changed files remember: before, what a crash has left, and in the end."""
    scans = state_dir / "scans"

    def remove() -> None:
        with suppress(OSError):
            remove_whole(str(scans))

    await asyncio.to_thread(remove)
    try:
        yield scans
    finally:
        await asyncio.to_thread(remove)


def _find_programs() -> Programs:
    shell = shutil.which("bash") or shutil.which("sh")
    if shell is None:
        raise SandboxError("there is neither bash nor sh on the PATH, and commands need one of them")
    return Programs(shell, shutil.which("rg"))
