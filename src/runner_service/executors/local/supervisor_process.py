"""Keeps the supervisor running: started with the executor, restarted when it is lost, ended last."""

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from runner_service.executors.local.orphans import Remnants
from runner_service.executors.local.supervisor_client import Supervision
from runner_service.executors.protocol import SandboxError
from runner_service.executors.supervisor.watchdog import Quota

logger = logging.getLogger(__name__)

_READY_WITHIN = 20.0
_PAUSE_BEFORE_RESTART = 0.2
_PACKAGES = Path(__file__).parents[3]
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from runner_service.executors.supervisor.main import main
main(sys.argv[1:])
"""


class SupervisionKeeper:
    """Holds the current supervisor, and gets another one when it is lost."""

    def __init__(self, remnants: Remnants, grace: float, quota: Quota) -> None:
        self._remnants = remnants
        self._grace = grace
        self._quota = quota
        self._process: subprocess.Popen[bytes]
        self.current: Supervision
        self.control = ""

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keeps a supervisor alive during the block, and ends it with everything below it."""
        await self._launch()
        keeper = asyncio.create_task(self._keep(), name="supervisor-keeper")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])
            await self._close()

    async def _keep(self) -> None:
        while True:
            await self.current.lost.wait()
            logger.error("supervisor_lost pid=%d", self._process.pid)
            await asyncio.to_thread(self._process.wait)
            await self._relaunch()

    async def _relaunch(self) -> None:
        while self.current.lost.is_set():
            await asyncio.sleep(_PAUSE_BEFORE_RESTART)
            try:
                await self._launch()
            except (SandboxError, OSError) as error:
                logger.error("supervisor_restart_failed error=%s", error)  # noqa: TRY400  # its text says all

    async def _close(self) -> None:
        try:
            self.current.ask_to_close()
            await self.current.lost.wait()
        finally:
            self.current.disconnect()
            await asyncio.to_thread(self._process.wait)
        with suppress(OSError):  # on a disk that is broken the next start looks for what is not there, and that is all
            await asyncio.to_thread(self._remnants.note, None)

    async def _launch(self) -> None:
        """Starts a supervisor, which first clears what an earlier one left, and notes its zone before it is used."""
        zone = await asyncio.to_thread(self._remnants.zone)
        channel, process = _start_program(self._grace, self._quota, zone)
        supervision = Supervision(channel)
        try:
            ready = await asyncio.wait_for(supervision.ready, _READY_WITHIN)
            await asyncio.to_thread(self._remnants.note, ready["zone"])
        except BaseException as error:
            supervision.disconnect()
            await asyncio.to_thread(process.wait)
            if isinstance(error, TimeoutError):
                raise SandboxError("the process supervisor does not start") from error
            raise
        self.current, self._process, self.control = supervision, process, ready["control"]


def _start_program(grace: float, quota: Quota, zone: Sequence[int]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Starts the program, which takes the loop 1 ms once; returns our end of the channel to it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    arguments = [str(theirs.fileno()), str(grace), *map(str, (*quota, *zone))]
    try:
        process = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", _PROGRAM, str(_PACKAGES), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[theirs.fileno()],
        )
    except OSError as error:
        ours.close()
        raise SandboxError(f"the process supervisor does not start: {error.strerror}") from error
    finally:
        theirs.close()
    return ours, process


@asynccontextmanager
async def supervision_keeper(state_dir: Path, grace: float, quota: Quota) -> AsyncIterator[SupervisionKeeper]:
    """Keeps a supervisor for the block. `grace` is how many seconds a process gets between SIGTERM and SIGKILL.

    `quota` is what the commands of each sandbox may use.

    Raises:
        SandboxError: another service uses `state_dir`, or the supervisor does not start.
    """
    remnants = await asyncio.to_thread(Remnants, state_dir)
    try:
        keeper = SupervisionKeeper(remnants, grace, quota)
        async with keeper.kept():
            yield keeper
    finally:
        await asyncio.to_thread(remnants.release)
