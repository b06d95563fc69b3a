"""The supervisor process: started with the executor, restarted when it is lost, ended last."""

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from runner_service.executors.local.orphan_record import OrphanRecord
from runner_service.executors.local.supervisor_client import Child, SupervisorClient
from runner_service.executors.local.supervisor_heartbeat import kill_with_descendants, until_lost
from runner_service.executors.protocol import KilledProcess, SandboxError
from runner_service.executors.supervisor.process_ownership import unused_zone
from runner_service.executors.supervisor.tags import Span, tagged
from runner_service.executors.supervisor.watchdog import Quota

logger = logging.getLogger(__name__)

_READY_TIMEOUT_SECONDS = 20.0
_RESTART_BACKOFF_SECONDS = 0.2
PACKAGES = Path(__file__).parents[3]
"""Where a supervisor is imported from."""

_SOURCE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from runner_service.executors.supervisor.{entry} as run
run(sys.argv[1:])
"""


class SupervisorProcess:
    """Owns the supervisor process and the client of it, and restarts it when it is lost."""

    is_restricted = False
    temporary_directory = ""

    def __init__(
        self, orphan_record: OrphanRecord, grace: float, quota: Quota, on_change: Callable[[bool], None]
    ) -> None:
        self._on_change = on_change
        self._orphan_record = orphan_record
        self._grace = grace
        self._quota = quota
        self._process: subprocess.Popen[bytes]
        self.client: SupervisorClient
        self.control = ""
        self.cells: Span | None = None
        """Tags for the cells of the service. They outlive a supervisor, which has tags of its own for commands."""

    async def started(self, execution: int) -> SupervisorClient:  # noqa: ARG002  # as the Protocol has it
        """Returns the current client at once; while the supervisor is being restarted it refuses commands."""
        return self.client

    async def terminate(self, children: Sequence[Child]) -> Sequence[KilledProcess]:
        """Ends children and all their descendants, and returns what had to be killed."""
        return await self.client.request_termination(children)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs a supervisor during the block, then ends it with all its descendants."""
        self.cells = await asyncio.to_thread(_tags_for_cells)
        await self._launch()
        restarts = asyncio.create_task(self._restart_when_lost(), name="supervisor-restarts")
        try:
            yield
        finally:
            restarts.cancel()
            await asyncio.wait([restarts])
            await self._close()

    async def _restart_when_lost(self) -> None:
        while True:
            await self._lost()
            self._on_change(False)
            logger.error("supervisor_lost pid=%d", self._process.pid)
            await asyncio.to_thread(self._process.wait)
            await self._relaunch()
            self._on_change(True)

    async def _lost(self) -> None:
        """Waits until the supervisor is lost; one that does not answer is killed."""
        pid = self._process.pid
        if reason := await until_lost(self.client, lambda: [pid]):
            logger.error("supervisor_killed pid=%d reason=%s", pid, reason)
            self.client.disconnect(reason)  # first: the end of the channel would give no reason
            await asyncio.to_thread(kill_with_descendants, pid)

    async def _relaunch(self) -> None:
        while self.client.lost.is_set():
            await asyncio.sleep(_RESTART_BACKOFF_SECONDS)
            try:
                await self._launch()
            except (SandboxError, OSError) as error:
                logger.error("supervisor_restart_failed error=%s", error)  # noqa: TRY400  # its text says all

    async def _close(self) -> None:
        try:
            self.client.request_close()
            await self._lost()
        finally:
            self.client.disconnect()
            await asyncio.to_thread(self._process.wait)
        with suppress(OSError):  # on a broken disk the next start looks for orphans in vain, which is harmless
            await asyncio.to_thread(self._orphan_record.record, None, None)

    async def _launch(self) -> None:
        """Starts a supervisor, which first ends orphans of an earlier one, and records its zone before use."""
        recorded = await asyncio.to_thread(self._orphan_record.recorded_spans)
        orphans = [number for span in recorded if span != self.cells for number in span]
        arguments = [str(self._grace), *map(str, (*self._quota, *(self.cells or (0, 0)), *orphans))]
        channel, process = start_supervisor(Program(sys.executable), arguments)
        client = SupervisorClient(channel)
        try:
            ready = await asyncio.wait_for(client.ready, _READY_TIMEOUT_SECONDS)
            await asyncio.to_thread(self._orphan_record.record, ready["zone"], self.cells)
        except BaseException as error:
            client.disconnect()
            await asyncio.to_thread(process.wait)
            if isinstance(error, TimeoutError):
                raise SandboxError("the process supervisor does not start") from error
            raise
        self.client, self._process, self.control = client, process, ready["control"]


class Program(NamedTuple):
    """How a supervisor is started: the interpreter, its entry, and what goes before both, with its descriptors."""

    python: str
    entry: str = "main import main"
    first_arguments: Sequence[str] = ()
    wrapper: Sequence[str] = ()
    descriptors: Sequence[int] = ()
    stderr: int | None = None
    environment: Mapping[str, str] | None = None
    """None: that of the service, which the supervisor hides from its commands."""
    tag: int = 0
    """By which all of it can be found; 0 for none."""


def start_supervisor(program: Program, arguments: Sequence[str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Starts a supervisor, which takes the loop 1 ms; returns our end of the channel to it.

    Raises:
        SandboxError: it cannot be started.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    source = _SOURCE.format(entry=program.entry)
    interpreter = [program.python, "-I", "-S", "-X", "utf8", "-c", source, str(PACKAGES)]
    try:
        with tagged(program.tag):
            process = subprocess.Popen(  # noqa: S603  # our own program
                [*program.wrapper, *interpreter, *program.first_arguments, str(theirs.fileno()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=program.stderr,
                env=program.environment,
                start_new_session=True,
                pass_fds=[theirs.fileno(), *program.descriptors],
            )
    except OSError as error:
        ours.close()
        raise SandboxError(f"the process supervisor does not start: {error.strerror}") from error
    finally:
        theirs.close()
    return ours, process


def _tags_for_cells() -> Span | None:
    """Returns a span of tags; None inside of a command of another service, which finds what is left by its own."""
    with suppress(OSError, ValueError):
        zone = unused_zone()
        return zone.span if zone and zone.slot_size > 1 else None
    return None


@asynccontextmanager
async def supervisor_process(
    state_dir: Path,
    grace: float,
    quota: Quota,
    on_change: Callable[[bool], None] = lambda _: None,
) -> AsyncIterator[SupervisorProcess]:
    """Runs a supervisor during the block. `grace` is how many seconds a process gets between SIGTERM and SIGKILL.

    `quota` is what the commands of each sandbox may use. `on_change` is told when the supervisor is lost (False) and
    when there is another (True).

    Raises:
        SandboxError: another service uses `state_dir`, or the supervisor does not start.
    """
    orphan_record = await asyncio.to_thread(OrphanRecord, state_dir)
    try:
        supervisor = SupervisorProcess(orphan_record, grace, quota, on_change)
        async with supervisor.running():
            yield supervisor
    finally:
        await asyncio.to_thread(orphan_record.release)
