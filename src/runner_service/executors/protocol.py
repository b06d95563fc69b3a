"""The executor interface: an executor opens sandboxes, a sandbox runs commands and holds files.

Both are Protocols with two implementations each, chosen by mode: `local` runs commands as child processes in a
directory, `daytona` in a cloud sandbox. Both pass one conformance suite, which has a case for every promise below.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from runner_service.executors.confinement import Confinement, ConfinementInForce
from runner_service.executors.egress.policy import EgressPolicy
from runner_service.executors.limit_messages import ExceededLimit
from runner_service.executors.tracking import Restorer, Tracking

T = TypeVar("T")

Stream = Literal["stdout", "stderr"]

MAX_PARKED_DAYS = 31
"""How long the sandbox of a parked execution is kept: longer than an approval is waited for."""

TIMED_OUT_EXIT_CODE = 124
"""Exit code of a command that timed out, as of `timeout(1)`."""


class SandboxError(Exception):
    """The sandbox could not be opened, or is lost. The text is for callers and holds no secret.

    `code` and `retryable` become the error of the execution.
    """

    code = "SANDBOX_UNAVAILABLE"
    retryable = True
    fenced_by = 0
    """The token of a later owner, if the sandbox refuses this one."""


class SandboxFencedError(SandboxError):
    """The sandbox has seen a later owner of the execution, with the token `highest`."""

    def __init__(self, highest: int) -> None:
        super().__init__("another replica has taken the execution over")
        self.fenced_by = highest


class SandboxLostError(SandboxError):
    """The sandbox is gone."""

    code = "SANDBOX_LOST"


class ConfinementError(SandboxError):
    """The confinement that was asked for cannot be had here. Nothing runs without it."""

    retryable = False


class FileError(Exception):
    """A file operation failed. `code` classifies it; the text tells a model what to do instead."""

    def __init__(self, code: "FileErrorCode", message: str) -> None:
        # Paths may hold bytes that are not UTF-8; messages are UTF-8.
        self.message = message.encode("utf-8", "replace").decode()
        super().__init__(self.message)
        self.code = code


FileErrorCode = Literal[
    "not_found",
    "is_directory",
    "not_directory",
    "permission_denied",
    "outside_root",
    "not_regular",
    "not_unique",
    "no_match",
    "invalid",
    "changed",
    "no_space",
    "too_large",
    "timed_out",
]


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """Parameters of a sandbox. `environment` goes to its commands, on top of the executor's short allow-list.

    `notify` receives notices for watchers: a code in UPPER_SNAKE and a text. `is_interrupted` and `is_parked` are
    called when the sandbox closes: true if the execution will be resumed. Executors whose sandboxes outlive the service
    leave commands of an interrupted execution running, and keep the sandbox of a parked one, stopped, for up to
    `MAX_PARKED_DAYS`.
    """

    execution_id: str
    session_id: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    confinement: Confinement = Confinement()  # noqa: RUF009  # frozen
    egress: EgressPolicy | None = None
    notify: Callable[[str, str], None] = field(default=lambda code, text: None, repr=False)  # noqa: ARG005  # ignores them
    is_interrupted: Callable[[], bool] = field(default=lambda: False, repr=False)
    on_private_bytes: Callable[[int], None] = field(default=lambda _: None, repr=False)
    is_parked: Callable[[], bool] = field(default=lambda: False, repr=False)
    owner_token: int = 0
    """Of the process that opens it. A sandbox that outlives processes refuses requests with a lower one."""


class OutputSink(Protocol):
    """Receives the output of a command, byte-exact and in order per stream.

    `write` is awaited before the next read of the same pipe, so waiting in it slows the command and loses nothing.
    `data` is never empty and at most 256 KiB. After `Sandbox.run` has returned, `write` may still be called with output
    of processes that the command left behind, until the sandbox closes.
    """

    async def write(self, stream: Stream, data: bytes) -> None:
        """Receives the next bytes of `stream`."""


@dataclass(frozen=True, slots=True)
class Command:
    """A shell command: the text for `bash -c`, its timeout in seconds and the sink of its output.

    `name` is chosen by the caller, unique in its execution, or empty. A command with a name can be resumed.
    `stdin` is written to it item by item, then closed. Unread input is dropped, and the items are closed, if they can
    be, when the run ends. An exception of theirs ends the command and is raised. Without `stdin`, standard input is
    empty. A command with `stdin` has no name: it ends when the service stops sending, also when the service is gone.
    """

    text: str
    timeout: float
    sink: OutputSink
    name: str = ""
    stdin: AsyncIterator[bytes] | None = None


@dataclass(frozen=True, slots=True)
class KilledProcess:
    """A process that had to be killed."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Result of a command.

    `exit_code` is its own, 128 + n when signal n ended it, `TIMED_OUT_EXIT_CODE` when `timed_out`. `elapsed` and
    `cpu_time` are in seconds; `cpu_time` and `peak_memory` (bytes) are of the command and the children it waited for.
    `spawn_time` is the duration of its start in seconds, 0 if not measured. `left_processes` says that its shell ended
    before other processes of the command.
    `start_error` is set, with exit code 126 or 127, if it could not be started. `lost` is set if its outcome is
    unknown; the exit code is then meaningless. `exceeded` is set if it was ended because the commands of the sandbox
    exceeded a limit.
    """

    exit_code: int
    timed_out: bool = False
    elapsed: float = 0.0
    cpu_time: float = 0.0
    peak_memory: int = 0
    killed: Sequence[KilledProcess] = ()
    start_error: str = ""
    lost: str = ""
    spawn_time: float = 0.0
    left_processes: bool = False
    exceeded: ExceededLimit | None = None


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file or directory: its path as the agent names it (absolute), its size in bytes, its mtime in Unix seconds."""

    path: str
    is_directory: bool
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class TextLines:
    """Some lines of a text file, with their line ends, decoded as UTF-8 (what is not becomes U+FFFD).

    `first_line` counts from 1; an empty window has 0. `total_lines` is of the whole file, or of the part of a large
    one that was read; then `is_total_exact` is false.
    """

    text: str
    first_line: int
    total_lines: int
    is_total_exact: bool = True


@dataclass(frozen=True, slots=True)
class BinaryFile:
    """A file that is not text; its content is not returned."""

    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class GrepMatch:
    """A line that matched: the path as the agent names it, the line number from 1, the line without its end."""

    path: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """Search results. If `truncated`, there are more; `why` explains it to the model."""

    items: Sequence[T]
    truncated: bool = False
    why: str = ""


class Sandbox(Protocol):
    """Runs commands and holds files. Paths are the agent's; those that resolve outside the root are refused."""

    @property
    def root(self) -> str:
        """Where commands start. In file operations, `/` means this directory unless the path is already below it."""

    async def run(self, command: Command) -> CommandResult:
        """Runs `command` and returns when its shell has ended.

        Processes it left behind live until the sandbox closes, and their late output goes to the sink. Any number of
        commands may run at once. A command that fails or cannot be started is a result, not an exception. Cancelling
        this call ends the whole process tree first.

        Raises:
            SandboxError: the sandbox is lost.
        """

    @property
    def tracking(self) -> Tracking | None:
        """Finds changes of files; None if that is not possible here, or if there can be none."""

    @property
    def keeps_commands(self) -> bool:
        """Whether commands outlive the service and can be resumed."""

    async def resume(self, command: Command) -> CommandResult:
        """Resumes a named command that an earlier process of the service started, as `run` would.

        The sink receives all of its output from the first byte. The result of an unknown command is `lost`. Raises as
        `run` does.
        """

    async def list_directory(self, path: str) -> Sequence[FileEntry]:
        """Lists a directory, sorted by path. Raises FileError."""

    async def read_text(
        self, path: str, *, offset: int = 0, limit: int = 2000, agent: str = ""
    ) -> TextLines | BinaryFile:
        """Reads `limit` lines after the first `offset`. Raises FileError."""

    async def write_text(self, path: str, text: str, *, agent: str = "") -> None:
        """Writes a whole file, creating directories. Raises FileError.

        Changes of one file are serial, whoever makes them and by whatever path, and atomic, except that hard links,
        mount points and files whose owner or extended attributes cannot be copied are rewritten in place. Keeps mode,
        owner and extended attributes. Refused once, with what the file holds now, if `agent` has read or written the
        file and it was changed by anybody else since.
        """

    async def edit_text(self, path: str, old: str, new: str, *, replace_all: bool = False, agent: str = "") -> int:
        r"""Replaces `old`, which must occur once unless `replace_all`; returns the number of replacements.

        Changes the file as it is now, as `write_text` does. Keeps line ends: `\n` in `old` and `new` means the line end
        of the file. What is not found as UTF-8 is looked for as Latin-1. Raises FileError.
        """

    async def delete(self, path: str) -> None:
        """Removes a file, a symlink, or a directory with its content. Raises FileError."""

    async def glob(self, pattern: str, path: str = "/", *, include_ignored: bool = False) -> Found[FileEntry]:
        """Finds regular files. Without `/` in it, `pattern` is matched with names at any depth. Raises FileError.

        Files that a `.gitignore`, `.ignore`, `.rgignore` or `.git/info/exclude` below the root names are left out,
        unless `include_ignored`, or `path` itself is ignored.
        """

    async def grep(
        self, pattern: str, path: str = "/", *, include: str = "", limit: int = 1000, include_ignored: bool = False
    ) -> Found[GrepMatch]:
        """Finds lines holding the literal `pattern`, in text files that match the glob `include`. Raises FileError."""

    async def upload(self, path: str, chunks: AsyncIterator[bytes], *, mode: int = 0o644) -> None:
        """Writes a file of any size atomically. Raises FileError."""

    def download(self, path: str) -> AsyncIterator[bytes]:
        """Reads a file of any size, as an async generator. Raises FileError."""


class Executor(Protocol):
    """Opens sandboxes. One per process."""

    @property
    def sandbox_type(self) -> str:
        """`filesystem` or `daytona`, as in the `started` event."""

    @property
    def process_control(self) -> str:
        """How the processes of a command are found and ended, as in the `started` event."""

    async def confinement_for(self, asked: Confinement) -> ConfinementInForce | None:
        """Returns what would be in force for an execution; None where a sandbox is a machine of its own.

        Raises:
            ConfinementError: it cannot be had here; the text says why and what to do.
        """

    def root_for(self, spec: "SandboxSpec") -> str | None:
        """Returns the path that `open` gives the sandbox as its root; None if it is only known then."""

    async def delete(self, spec: "SandboxSpec") -> None:
        """Deletes the directory or sandbox that a session, or an execution without one, had of its own, if any.

        Raises:
            SandboxError: it could not be deleted.
        """

    async def release_ended(self, spec: "SandboxSpec") -> None:
        """Gives up what an execution that has ended elsewhere, or while it was parked, has left behind.

        That is its own sandbox, or what still runs of it in that of its session, where `spec.owner_token` fences.

        Raises:
            SandboxError: it could not be given up.
        """

    def skip_grace(self) -> None:
        """From now on ends commands by SIGKILL at once: the service has no time left for a grace period."""

    def open_restorer(self, spec: SandboxSpec, root: str) -> AbstractAsyncContextManager[Restorer]:
        """Opens what puts files below `root` back, that of the sandbox of an execution that does not run.

        Raises:
            SandboxLostError: the sandbox is gone.
            SandboxError: that is not possible now; the text says why.
        """

    def open(self, spec: SandboxSpec) -> AbstractAsyncContextManager[Sandbox]:
        """Opens the sandbox of an execution. When the context ends, none of its processes is left.

        Raises:
            SandboxError: it could not be opened.
        """
