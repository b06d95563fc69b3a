"""Commands in a box: begun once, followed by offset to their end, and listened to afterwards."""

import asyncio
import base64
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from runner_service.executors.completion import run_to_completion
from runner_service.executors.daytona.feeding import feed
from runner_service.executors.daytona.sandboxes import Notify
from runner_service.executors.daytona.session import CLOSE_PATIENCE, Attendance
from runner_service.executors.limit_messages import ExceededLimit
from runner_service.executors.protocol import Command, CommandResult, KilledProcess, OutputSink, SandboxError, Stream

logger = logging.getLogger(__name__)

_LARGEST_PIECE = 256 * 1024  # of base64
_FOLLOWERS_WITHIN = 10.0
_LOST = "the sandbox was stopped or restarted while this ran; how far it came is not known"
_STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")


@dataclass
class Heard:
    """Who takes the output of a command, and how much of it was taken."""

    sink: OutputSink
    offsets: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(_STREAMS, 0))

    async def take(self, answer: dict[str, Any]) -> None:
        """Hands on what is in an answer, and lets others have their turns meanwhile."""
        for stream in _STREAMS:
            for start in range(0, len(answer[stream]), _LARGEST_PIECE):
                piece = base64.b64decode(answer[stream][start : start + _LARGEST_PIECE])
                await self.sink.write(stream, piece)
                self.offsets[stream] += len(piece)
                await asyncio.sleep(0)


class Followed:
    """The commands of one execution. `listen` has to run beside them; `close` comes last.

    `notify` is told what the box's own executor has to say about what commands left running.
    """

    def __init__(self, attendance: Attendance, notify: Notify, *, poll: float, forsaken: float) -> None:
        self._attendance = attendance
        self._notify = notify
        self._notices = 0
        self._poll = poll
        self._forsaken = forsaken
        self._late: dict[str, Heard] = {}
        self._followers: set[asyncio.Task[Any]] = set()
        self._some_ended = asyncio.Event()
        self._is_closed = False

    async def run(self, command: Command, *, keep: Callable[[], bool], resumes: bool = False) -> CommandResult:
        """Runs a command, or goes on with one. A cancellation ends it, unless `keep` says not to and it is not fed.

        Raises:
            SandboxError: the sandbox is lost.
        """
        if self._is_closed:
            raise SandboxError("the sandbox is closed")
        name = command.name or secrets.token_hex(16)
        follower = asyncio.current_task()
        assert follower is not None  # noqa: S101  # a coroutine runs in a task
        self._followers.add(follower)
        heard = Heard(command.sink)
        try:
            answer = await self._ask(name, heard, None if resumes else command)
            if command.stdin is None:
                return await self._to_the_end(name, heard, answer)
            return await self._fed_to_the_end(name, heard, answer, command.stdin)
        except BaseException:
            if command.stdin or not keep():
                with suppress(asyncio.CancelledError):  # what ended the wait goes on in any case
                    await run_to_completion(self._end(name))
            raise
        finally:
            self._followers.discard(follower)

    async def listen(self) -> None:
        """Hands on, for ever, what commands that have ended go on to write through their children."""
        await self._some_ended.wait()
        while True:
            try:
                await self._take_late(self._poll)
            except SandboxError as error:
                logger.warning("late_output_unknown reason=%s", error)
                await asyncio.sleep(self._poll)

    async def close(self) -> None:
        """Ends everything, and hands on the last of its output. Raises SandboxError."""
        self._is_closed = True
        await self._attendance.ask("close", patience=CLOSE_PATIENCE)
        if self._followers:
            await asyncio.wait(self._followers, timeout=_FOLLOWERS_WITHIN)
        while self._late and await self._take_late(0.0):
            pass
        await self._attendance.ask("forget", patience=CLOSE_PATIENCE)

    async def _fed_to_the_end(
        self, name: str, heard: Heard, answer: dict[str, Any], stdin: AsyncIterator[bytes]
    ) -> CommandResult:
        following = asyncio.create_task(self._to_the_end(name, heard, answer))
        feeding = asyncio.create_task(feed(self._attendance, name, stdin, every=self._poll))
        try:
            await asyncio.wait([following, feeding], return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                feeding.result()  # raises what the input did
            return await following
        finally:
            for task in (following, feeding):
                task.cancel()
            await asyncio.wait([following, feeding])

    async def _to_the_end(self, name: str, heard: Heard, answer: dict[str, Any]) -> CommandResult:
        while True:
            if "unknown_command" in answer:
                return CommandResult(exit_code=1, lost=_LOST)
            await heard.take(answer)
            result = answer["result"]
            if result and heard.offsets == result["sizes"]:
                self._late[name] = heard
                self._some_ended.set()
                return _result(result)
            answer = await self._ask(name, heard, None)

    async def _ask(self, name: str, heard: Heard, begun: Command | None) -> dict[str, Any]:
        about: dict[str, Any] = {"name": name, "stdout": heard.offsets["stdout"], "stderr": heard.offsets["stderr"]}
        if begun is None:
            return await self._attendance.ask("follow", wait=self._poll, **about)
        about |= {"text": begun.text, "timeout": begun.timeout}
        if begun.stdin is None:
            return await self._attendance.ask("run", wait=self._poll, **about)
        return await self._attendance.ask("run_fed", forsaken_after=self._forsaken, **about)

    async def _end(self, name: str) -> None:
        try:
            await self._attendance.ask("end", name=name, patience=CLOSE_PATIENCE)
        except SandboxError as error:
            logger.warning("command_not_ended reason=%s", error)

    async def _take_late(self, wait: float) -> bool:
        """Takes what is there, or comes within `wait` seconds; says whether there was any."""
        offsets = {name: heard.offsets for name, heard in self._late.items()}
        told = await self._attendance.ask("late", wait=wait, offsets=offsets, notices=self._notices)
        for code, text in told.get("notices", ()):
            self._notices += 1
            self._notify(code, text)
        late = told["late"]
        for name, answer in late.items():
            if heard := self._late.get(name):
                await self._hand_on(name, heard, answer)
        return bool(late)

    async def _hand_on(self, name: str, heard: Heard, answer: dict[str, Any]) -> None:
        if any(answer[f"{stream}_at"] != heard.offsets[stream] for stream in _STREAMS):
            return  # asked for before an earlier answer was taken
        try:
            await heard.take(answer)
        except Exception:  # noqa: BLE001  # whatever is wrong with the sink of a command that has ended ends nothing else
            logger.warning("late_output_dropped reason=sink_failed")
            del self._late[name]


def _result(fields: dict[str, Any]) -> CommandResult:
    if "sandbox_error" in fields:
        raise SandboxError(str(fields["sandbox_error"]))
    if "cancelled" in fields:
        raise SandboxError("the command was ended from inside of the sandbox")
    killed = tuple(KilledProcess(int(each["pid"]), str(each["name"])) for each in fields["killed"])
    excess = fields["exceeded"]
    known = {name: value for name, value in fields.items() if name not in {"sizes", "killed", "exceeded"}}
    return CommandResult(**known, killed=killed, exceeded=ExceededLimit(**excess) if excess else None)
