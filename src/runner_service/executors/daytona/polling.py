"""One long poll for all commands of an execution, those that have ended included, since their children may write on."""

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runner_service.executors.daytona.config import Notify
from runner_service.executors.daytona.output import CommandOutput
from runner_service.executors.daytona.session import ExecutionSession
from runner_service.executors.protocol import SandboxError

logger = logging.getLogger(__name__)

_MAX_POLLS = 4
_IDLE_DELAY_SECONDS = 0.25
_ERROR_BACKOFF_SECONDS = 1.0


class OutputPoller:
    """Polls, and hands what comes to the commands.

    A command is asked about while its reader waits. When the set of those changes, a new poll takes the place of the
    old one, which the attendant then answers at once. So a sink that takes its time holds up no other command.
    """

    def __init__(self, session: ExecutionSession, notify: Notify, *, poll_interval: float) -> None:
        self._session = session
        self._notify = notify
        self._poll_interval = poll_interval
        self._id = secrets.token_hex(8)
        self._number = 0
        self._notices = 0
        self._running: dict[str, CommandOutput] = {}
        self._ended: dict[str, CommandOutput] = {}
        self._unasked: set[str] = set()
        self._polls: set[asyncio.Task[bool]] = set()
        self._is_outdated = asyncio.Event()
        self._is_draining = False

    @contextmanager
    def tracked(self, output: CommandOutput) -> Iterator[None]:
        """Tracks a command that runs; afterwards, if its end is known, its late output."""
        self._running[output.name] = output
        try:
            yield
        finally:
            del self._running[output.name]
            if output.result:
                self._ended[output.name] = output
            if not self._polls:
                self._is_outdated.set()

    async def wait_for_more(self, output: CommandOutput) -> None:
        """Waits until there is more of a command. Raises SandboxError."""
        self._is_outdated.set()
        await output.wait()

    async def run(self) -> None:
        """Polls from the first command on, until cancelled."""
        try:
            await self._is_outdated.wait()
            while True:
                self._is_outdated.clear()
                if len(self._polls) >= _MAX_POLLS:
                    await asyncio.wait(self._polls, return_when=asyncio.FIRST_COMPLETED)
                if self._is_draining:
                    await asyncio.Event().wait()  # `drain` polls, and a poll of ours would take its place
                self._begin(self._poll_interval)
                await self._next()
        finally:
            for poll in self._polls:
                poll.cancel()
            if self._polls:
                await asyncio.wait(self._polls)

    async def drain(self) -> None:
        """Delivers the late output that there is, and polls no more."""
        self._is_draining = True
        while await self._begin(0.0):
            pass
        if self._polls:
            await asyncio.wait(self._polls, timeout=self._poll_interval)

    async def _next(self) -> None:
        """Returns when it is time for another poll: the last one is outdated, or answered and nobody waits."""
        outdated = asyncio.create_task(self._is_outdated.wait())
        try:
            while self._polls and not outdated.done():
                await asyncio.wait([outdated, *self._polls], return_when=asyncio.FIRST_COMPLETED)
            # Whoever was just given something will most likely ask for more, and a poll is to include it.
            await asyncio.wait([outdated], timeout=0 if self._is_awaited() else _IDLE_DELAY_SECONDS)
        finally:
            outdated.cancel()

    def _is_awaited(self) -> bool:
        return any(output.is_waiting for output in self._running.values())

    def _begin(self, wait: float) -> "asyncio.Task[bool]":
        self._number += 1
        poll = asyncio.create_task(self._poll(self._number, wait))
        self._polls.add(poll)
        poll.add_done_callback(self._polls.discard)
        return poll

    async def _poll(self, number: int, wait: float) -> bool:
        """Polls once; returns whether there was late output."""
        waiting = [output for output in self._running.values() if output.is_waiting]
        notices = self._notices
        late = {output.name: output.offsets for output in self._ended.values() if _wrote_late(output)}
        busy = [*(self._running.keys() - {output.name for output in waiting}), *self._unasked]
        try:
            response = await self._session.request(
                "poll",
                wait=wait,
                poller=self._id,
                turn=number,
                commands={output.name: dict(output.offsets) for output in waiting},
                busy=busy,
                late=late,
                notices=notices,
            )
        except SandboxError as error:
            if number == self._number:
                for output in waiting:
                    output.fail(error)
            logger.warning("poll_failed reason=%s", error)
            await asyncio.sleep(min(_ERROR_BACKOFF_SECONDS, self._poll_interval))
            return False
        await self._hand_out(response, notices)
        return bool(response["late"])

    async def _hand_out(self, response: dict[str, Any], first_notice: int) -> None:
        for name, part in response["commands"].items():
            if output := self._running.get(name):
                output.receive(part)
        for number, (code, text) in enumerate(response["notices"], first_notice):
            if number >= self._notices:  # else another poll has brought it
                self._notices = number + 1
                self._notify(code, text)
        for name, part in response["late"].items():
            if (output := self._ended.get(name)) and name not in self._unasked:
                await self._deliver_late(output, part)
            elif output is None and name not in self._running:
                self._unasked.add(name)  # of an earlier process of the service, which had its output

    async def _deliver_late(self, output: CommandOutput, part: dict[str, Any]) -> None:
        self._unasked.add(output.name)
        output.receive(part)
        try:
            await output.deliver()
        except Exception:  # noqa: BLE001  # a broken sink of an ended command ends nothing else
            logger.warning("late_output_dropped reason=sink_failed")
        else:
            self._unasked.discard(output.name)


def _wrote_late(output: CommandOutput) -> bool:
    """Whether late output was delivered; without any, the attendant knows where it begins."""
    return output.result is not None and output.offsets != output.result["sizes"]
