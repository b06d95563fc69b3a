"""A cell: one execution's supervisor in namespaces of its own, started by bubblewrap, with all commands inside."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from runner_service.executors.completion import run_to_completion
from runner_service.executors.confinement import NetworkLevel
from runner_service.executors.local.confinement.identities import Identity, require_identities
from runner_service.executors.local.supervisor_client import Child, SupervisorClient
from runner_service.executors.local.supervisor_heartbeat import until_lost
from runner_service.executors.local.supervisor_process import Program, start_supervisor
from runner_service.executors.protocol import ConfinementError, KilledProcess, SandboxError
from runner_service.executors.supervisor import kernel, process_table
from runner_service.executors.supervisor.process_ownership import kill_tagged
from runner_service.executors.supervisor.tags import Span
from runner_service.executors.supervisor.watchdog import Quota

logger = logging.getLogger(__name__)

INTERPRETER = os.path.realpath(sys.executable)
"""The interpreter without its environment: what a cell shows in any case."""

_READY_TIMEOUT_SECONDS = 20.0
_CLOSE_TIMEOUT_SECONDS = 3.0
_TERMINATION_TIMEOUT_SECONDS = 8.0
_EXIT_TIMEOUT_SECONDS = 1.0
_EXIT_INTERVAL_SECONDS = 0.02
_MAX_REASON_BYTES = 500
_NAMESPACES = ("--unshare-pid", "--unshare-ipc")  # without capabilities, those for host and control groups add nothing
_GUARDS = ("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--chdir", "/")


@dataclass(frozen=True, slots=True)
class CellSpec:
    """What a cell is made of: bubblewrap's path, its mounts (called in a thread, for each start), network, limits.

    The mounts are bubblewrap's arguments, and what has to be seen at which paths.
    `tag` is on bubblewrap and on the first process inside; 0 where there are no tags.
    """

    bwrap: str
    mounts: Callable[[], tuple[Sequence[str], Mapping[str, Identity]]]
    network: NetworkLevel
    grace: float
    quota: Quota
    tag: int


class Cell:
    """The supervisor of one confined execution. Opens at the first need, again if it is lost, until `close`.

    `on_open` is awaited with the client and the message by which the supervisor said that it is ready.
    """

    is_restricted = False
    temporary_directory = "/tmp"  # noqa: S108  # of the cell

    def __init__(
        self, spec: CellSpec, on_open: Callable[[SupervisorClient, dict[str, object]], Awaitable[None]]
    ) -> None:
        self._spec = spec
        self._on_open = on_open
        self._opening: asyncio.Task[SupervisorClient] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._current: SupervisorClient | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def client(self) -> SupervisorClient:
        """The current supervisor.

        Raises:
            SandboxError: there is none.
        """
        if self._current is None:
            raise SandboxError("the execution's cell is not open")
        return self._current

    def open_soon(self) -> None:
        """Begins to open the cell, in the background; `started` tells how it went."""
        self._opening = asyncio.create_task(self._open(), name="cell-opening")

    async def started(self, execution: int = 0) -> SupervisorClient:  # noqa: ARG002  # as the Protocol has it
        """Waits until the cell is open, and opens it again when it was lost, with nothing of what ran in it.

        Raises:
            ConfinementError: it cannot be opened. Nothing runs without it.
        """
        if self._opening is None or (self._opening.done() and not self._is_open()):
            _mark_retrieved(self._opening)
            self.open_soon()
        assert self._opening  # noqa: S101  # set just now
        return await asyncio.shield(self._opening)

    async def terminate(self, children: Sequence[Child]) -> Sequence[KilledProcess]:
        """Ends children and all their descendants; the whole cell, if its supervisor does not answer."""
        request = self.client.request_termination(children)
        done, _ = await asyncio.wait([request], timeout=self._spec.grace + _TERMINATION_TIMEOUT_SECONDS)
        if not done:
            logger.error("cell_supervisor_stuck")
            await self._end_process()
        return request.result()

    async def close(self) -> None:
        """Ends everything in the cell: politely, then with the namespace."""
        self._is_closed = True
        await run_to_completion(self._close())

    def _is_open(self) -> bool:
        return self._current is not None and not self._current.lost.is_set()

    async def _close(self) -> None:
        if self._opening:
            await asyncio.wait([self._opening])
            _mark_retrieved(self._opening)
        if self._current and not self._current.lost.is_set():
            self._current.request_close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._current.lost.wait(), self._spec.grace + _CLOSE_TIMEOUT_SECONDS)
        await self._end_process()

    async def _end_process(self) -> None:
        if self._heartbeat:
            self._heartbeat.cancel()
            await asyncio.wait([self._heartbeat])
            self._heartbeat = None
        is_ending = self._current is not None and self._current.lost.is_set()
        if self._current:
            self._current.disconnect()
        if self._process:
            timeout = _EXIT_TIMEOUT_SECONDS if is_ending else 0.0
            await asyncio.to_thread(_end, self._process, self._spec.tag, timeout)
            self._process = None

    async def _open(self) -> SupervisorClient:
        try:
            return await self._open_anew()
        except OSError as error:  # no free descriptor, no memory, no more processes
            raise SandboxError(f"the cell of the execution cannot be opened now: {error.strerror}") from error

    async def _open_anew(self) -> SupervisorClient:
        if self._is_closed:
            raise SandboxError("the sandbox is closed")
        if self._current:
            logger.error("cell_lost")
            await self._end_process()
        mounts, planned = await asyncio.to_thread(self._spec.mounts)
        with (
            _memory_file("filter", _filter(self._spec.network)) as seccomp,
            _memory_file("arguments", self._arguments(mounts, seccomp)) as arguments,
            _memory_file("errors") as errors,
        ):
            client, ready = await self._start((arguments, seccomp), errors, planned)
        self._current = client
        assert self._process  # noqa: S101  # set by _start
        self._heartbeat = asyncio.create_task(_kill_when_silent(client, self._process), name="cell-heartbeat")
        await self._on_open(client, ready)
        return client

    async def _start(
        self, descriptors: tuple[int, int], errors: int, planned: Mapping[str, Identity]
    ) -> tuple[SupervisorClient, dict[str, object]]:
        program = Program(
            python=INTERPRETER,
            entry="cell import main_in_cell",
            first_arguments=[self._spec.network],
            wrapper=[self._spec.bwrap, "--args", str(descriptors[0]), "--"],
            descriptors=descriptors,
            stderr=errors,
            environment={},  # bubblewrap's own would be readable in the cell
            tag=self._spec.tag,
        )
        channel, process = start_supervisor(program, [str(self._spec.grace), *map(str, self._spec.quota)])
        client = SupervisorClient(channel)
        try:
            async with asyncio.timeout(_READY_TIMEOUT_SECONDS):
                ready = await _ready_or_ended(client, process)
            await asyncio.to_thread(lambda: require_identities(process_table.children(process.pid)[0], planned))
        except BaseException as error:
            client.disconnect()
            await asyncio.to_thread(_end, process, self._spec.tag)
            if isinstance(error, (TimeoutError, SandboxError)) and not isinstance(error, ConfinementError):
                said = os.pread(errors, _MAX_REASON_BYTES, 0).decode("utf-8", "replace").strip()
                raise ConfinementError(
                    f"the cell of the execution does not open: {said or str(error) or 'no answer'}"
                ) from error
            raise
        self._process = process
        return client, ready

    def _arguments(self, mounts: Sequence[str], seccomp: int) -> bytes:
        network = () if self._spec.network == "all" else ("--unshare-net",)
        filtered = ("--seccomp", str(seccomp))
        return b"".join(os.fsencode(each) + b"\0" for each in (*_NAMESPACES, *network, *_GUARDS, *filtered, *mounts))


def _mark_retrieved(opening: asyncio.Task[SupervisorClient] | None) -> None:
    """Keeps asyncio from logging how an opening ended that nobody waited for."""
    if opening and not opening.cancelled():
        opening.exception()


def _filter(network: NetworkLevel) -> bytes:
    """Returns the seccomp filter, which bubblewrap sets for the cell's first process too: a command may trace that one.

    So it may where Landlock does not keep it from it (before Linux 6.12).
    """
    try:
        if network == "all":
            return kernel.filter_program(kernel.DENIED_ALWAYS)
        return kernel.filter_program((*kernel.DENIED_ALWAYS, *kernel.IO_URING), kernel.NAMESPACED_FAMILIES)
    except kernel.UnsupportedError as error:
        raise ConfinementError(f"the cell of the execution does not open: {error}") from error


async def _ready_or_ended(client: SupervisorClient, process: subprocess.Popen[bytes]) -> dict[str, object]:
    """Waits until the supervisor is ready. Bubblewrap can be killed while what it has made keeps the channel open."""
    while process.poll() is None and not client.ready.done():
        await asyncio.wait([client.ready], timeout=_EXIT_INTERVAL_SECONDS)
    if not client.ready.done():
        raise SandboxError(f"bubblewrap has ended with {process.returncode}")
    return client.ready.result()


def _end(process: subprocess.Popen[bytes], tag: int, timeout: float = 0.0) -> None:
    """Ends bubblewrap, unless it does so itself, and what it leaves. Blocks.

    If it is killed while it makes the namespaces, the first process inside waits for it for ever.
    """
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
    if process.wait() and tag:
        kill_tagged(Span(tag - 1, tag))


async def _kill_when_silent(client: SupervisorClient, process: subprocess.Popen[bytes]) -> None:
    """Kills a cell whose supervisor does not answer; what waits for its commands is told why."""
    if reason := await until_lost(client, lambda: _supervisor_and_parents(process.pid)):
        logger.error("cell_killed pid=%d reason=%s", process.pid, reason)
        client.disconnect(reason)
        process.kill()


def _supervisor_and_parents(pid: int) -> list[int]:
    """Returns bubblewrap, the first process of the namespace, and its children: the supervisor."""
    first = process_table.children(pid)
    return [pid, *first, *(each for parent in first for each in process_table.children(parent))]


@contextmanager
def _memory_file(name: str, content: bytes = b"") -> Iterator[int]:
    """Opens a file that has no name, with its offset at the beginning."""
    if sys.platform != "linux":
        raise NotImplementedError
    descriptor = os.memfd_create(name)
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
