"""The local executor: commands are child processes, files are files, both in a directory of this machine."""

import asyncio
import hashlib
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from runner_service.executors import Command, CommandResult, SandboxError, SandboxSpec
from runner_service.executors.commands import Commands
from runner_service.executors.environment import command_environment
from runner_service.executors.keeper import SupervisionKeeper, supervision_keeper

Scope = Literal["shared", "session"]

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class LocalSandbox:
    """One execution's view of the directory."""

    def __init__(self, commands: Commands, root: Path) -> None:
        self._commands = commands
        self._root = root

    @property
    def root(self) -> str:
        """The real path of the directory."""
        return str(self._root)

    async def run(self, command: Command) -> CommandResult:
        """Runs a command in the directory."""
        return await self._commands.run(command)


class LocalExecutor:
    """Opens sandboxes in `root`: the same for all when shared, else one directory below it for each session."""

    sandbox_type = "filesystem"

    def __init__(self, keeper: SupervisionKeeper, *, root: Path, scope: Scope, shell: str) -> None:
        self._keeper = keeper
        self._root = root
        self._scope = scope
        self._shell = shell

    @property
    def process_control(self) -> str:
        """What is in force on this machine, such as `subreaper+tag+guardian` or `process-group+guardian`."""
        return self._keeper.control

    @asynccontextmanager
    async def open(self, spec: SandboxSpec) -> AsyncIterator[LocalSandbox]:
        """Opens the sandbox of an execution, and ends its processes in the end.

        Raises:
            SandboxError: the directory cannot be made.
        """
        root = await asyncio.to_thread(_made, self._directory(spec))
        environment = command_environment(spec.environment, root=str(root))
        commands = Commands(self._keeper, shell=self._shell, root=str(root), environment=environment)
        try:
            yield LocalSandbox(commands, root)
        finally:
            await commands.close()

    def _directory(self, spec: SandboxSpec) -> Path:
        if self._scope == "shared":
            return self._root
        return self._root / _directory_name(spec.session_id or spec.execution_id)


@asynccontextmanager
async def local_executor(
    *, root: Path, state_dir: Path, scope: Scope = "shared", terminate_grace: float = 2.0
) -> AsyncIterator[LocalExecutor]:
    """Opens the executor of this machine, and ends every process that it started in the end.

    Args:
        root: where commands start and files are; made if it is missing.
        state_dir: holds the note by which the next start finds what a crash left running; one service each.
        scope: whether all executions share `root`, or each session has a directory below it.
        terminate_grace: seconds between SIGTERM and SIGKILL.

    Raises:
        SandboxError: a directory cannot be made or is in use, there is no shell, or the supervisor does not start.
    """
    shell = await asyncio.to_thread(_find_shell)
    real_root = await asyncio.to_thread(_made, root)
    async with supervision_keeper(state_dir, terminate_grace) as keeper:
        yield LocalExecutor(keeper, root=real_root, scope=scope, shell=shell)


def _find_shell() -> str:
    shell = shutil.which("bash") or shutil.which("sh")
    if shell is None:
        raise SandboxError("there is neither bash nor sh on the PATH, and commands need one of them")
    return shell


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return directory.resolve(strict=True)
    except OSError as error:
        raise SandboxError(f"{directory} cannot be used as a sandbox: {error.strerror}") from error


def _directory_name(session: str) -> str:
    """Returns a name for the directory of a session: its own if that is a plain file name, else a hash of it."""
    if _PLAIN_NAME.fullmatch(session):
        return session
    return "session-" + hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()[:32]
