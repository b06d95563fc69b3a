"""Where the tools of an agent run: an executor opens sandboxes, a sandbox runs commands and holds files.

Both are Protocols with two implementations each, chosen once by mode: `local` runs commands as child processes in a
directory, `daytona` in a cloud sandbox. Every promise below is a case of the conformance suite that both must pass.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from runner_service.executors.limit_messages import ExceededLimit

T = TypeVar("T")

Stream = Literal["stdout", "stderr"]

TIMED_OUT_EXIT_CODE = 124
"""The exit code of a command that ran out of time, as of `timeout(1)`."""


class SandboxError(Exception):
    """The sandbox could not be opened, or is lost. The text is for callers and holds no secret.

    `code` is what the execution ends with, and `retryable` says whether the same may work later.
    """

    code = "SANDBOX_UNAVAILABLE"
    retryable = True


class FileError(Exception):
    """A file operation was refused or failed. `code` says how, the text helps a model to do better."""

    def __init__(self, code: "FileErrorCode", message: str) -> None:
        # A path may hold bytes that are no text; what is sent on has to be.
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
    "no_space",
    "too_large",
]


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox is opened for. `environment` goes to its commands, over the executor's own short allow-list.

    `notify` is told, by a code in UPPER_SNAKE and a text for people, what happens to the sandbox that its user should
    know. `is_interrupted` is asked in the end: whether the execution will open it again to go on; an executor whose
    sandboxes outlive the service then leaves what runs in it running.
    """

    execution_id: str
    session_id: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    notify: Callable[[str, str], None] = field(default=lambda code, text: None, repr=False)  # noqa: ARG005  # does nothing
    is_interrupted: Callable[[], bool] = field(default=lambda: False, repr=False)


class OutputSink(Protocol):
    """Takes what a command writes, exactly, in the order of each stream.

    `write` is awaited before the next read of the same pipe: to wait in it slows the command, never loses a byte.
    `data` is never empty and at most 256 KiB. After `Sandbox.run` has returned, `write` may still be called, with what
    processes that the command left behind wrote, until the sandbox closes.
    """

    async def write(self, stream: Stream, data: bytes) -> None:
        """Takes the next bytes of `stream`."""


@dataclass(frozen=True, slots=True)
class Command:
    """A shell command: the text for `bash -c`, how long it may run in seconds, and who takes its output.

    `name` is the caller's own, unique in its execution, or empty. A command with a name can be resumed.
    `stdin` is fed to it, each item as soon as it can take it; at the end of the items its standard input is closed.
    What it did not want to read is dropped, and the items are closed, if they can be, with the run. An error of theirs
    ends the command and goes on. Without `stdin` there is nothing to read. A command with `stdin` has no name: it ends
    when nobody feeds it any more, also when that is because the service has gone.
    """

    text: str
    timeout: float
    sink: OutputSink
    name: str = ""
    stdin: AsyncIterator[bytes] | None = None


@dataclass(frozen=True, slots=True)
class KilledProcess:
    """A process that had to be ended."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended.

    `exit_code` is its own, 128 + n when signal n ended it, `TIMED_OUT_EXIT_CODE` when `timed_out`. `elapsed` and
    `cpu_time` are in seconds; `cpu_time` and `peak_memory` (bytes) are of the command and the children it waited for.
    `spawn_time` is how many seconds its start took, 0 where nobody measured it.
    `start_error` is set, with exit code 126 or 127, when it could not be started at all. `lost` is set when nobody
    knows how far it came or how it ended; the exit code then means nothing. `exceeded` is set when it was ended because
    the sandbox's commands used more than they may.
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

    `first_line` counts from 1; `total_lines` is of the whole file. An empty window has `first_line` 0.
    """

    text: str
    first_line: int
    total_lines: int


@dataclass(frozen=True, slots=True)
class BinaryFile:
    """A file that is not text: announced, not dumped."""

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
    """What a search found. `truncated` says that there is more, and `why`, for the model."""

    items: Sequence[T]
    truncated: bool = False
    why: str = ""


class Sandbox(Protocol):
    """A place where commands run and files are. Paths are the agent's: what resolves outside the root is refused."""

    @property
    def root(self) -> str:
        """The directory that commands start in and that `/` means to the file operations, if not already below it."""

    async def run(self, command: Command) -> CommandResult:
        """Runs `command` and returns when its shell has ended, whatever it left behind.

        What it left behind lives until the sandbox closes, and its late output still goes to the sink. Any number of
        commands may run at once. A command that fails, or cannot be started, is a result. Cancelling this call ends the
        whole tree of the command before the cancellation goes on.

        Raises:
            SandboxError: the sandbox is lost.
        """

    @property
    def keeps_commands(self) -> bool:
        """Whether commands outlive the service, so that the next one can go on with them by `resume`."""

    async def resume(self, command: Command) -> CommandResult:
        """Goes on with a command of that name that an earlier process of the service has started, as `run` would.

        The sink is given all of its output, from the first byte. What came of a command that is not known is `lost`.
        Raises as `run` does.
        """

    async def list_directory(self, path: str) -> Sequence[FileEntry]:
        """Lists a directory, sorted by path. Raises FileError."""

    async def read_text(self, path: str, *, offset: int = 0, limit: int = 2000) -> TextLines | BinaryFile:
        """Reads `limit` lines after the first `offset` ones; announces a binary file. Raises FileError."""

    async def write_text(self, path: str, text: str) -> None:
        """Writes a file at once or not at all, with its directories; the mode of an old one stays. Raises FileError."""

    async def edit_text(self, path: str, old: str, new: str, *, replace_all: bool = False) -> int:
        r"""Replaces `old`, which must occur once unless `replace_all`, and returns how often it did so.

        Line ends and mode of the file stay: `\n` in `old` and `new` means the file's own. Raises FileError.
        """

    async def delete(self, path: str) -> None:
        """Removes a file, or a directory with all below it; of a symlink, the link. Raises FileError."""

    async def glob(self, pattern: str, path: str = "/") -> Found[FileEntry]:
        """Finds regular files. Without `/` in it, `pattern` is matched with names at any depth. Raises FileError."""

    async def grep(self, pattern: str, path: str = "/", *, include: str = "", limit: int = 1000) -> Found[GrepMatch]:
        """Finds lines holding the literal `pattern`, in text files that match the glob `include`. Raises FileError."""

    async def upload(self, path: str, chunks: AsyncIterator[bytes], *, mode: int = 0o644) -> None:
        """Writes a file of any size, at once or not at all. Raises FileError."""

    def download(self, path: str) -> AsyncIterator[bytes]:
        """Reads a file of any size, as an async generator. Raises FileError."""


class Executor(Protocol):
    """Opens sandboxes. One per process."""

    @property
    def sandbox_type(self) -> str:
        """`filesystem` or `daytona`, as in the `started` event."""

    @property
    def process_control(self) -> str:
        """How the processes of a command are found and ended on this machine, as in the `started` event."""

    def open(self, spec: SandboxSpec) -> AbstractAsyncContextManager[Sandbox]:
        """Opens the sandbox of an execution. When the context ends, none of its processes is left.

        Raises:
            SandboxError: it could not be opened; the text says why.
        """
