"""Client of the supervisor: turns calls into messages, and messages into results."""

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

from runner_service.executors.limit_messages import ExceededLimit
from runner_service.executors.local import supervisor_messages
from runner_service.executors.protocol import KilledProcess, SandboxError
from runner_service.executors.supervisor import wire

_READ_BYTES = 65536
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: wait status, CPU seconds, peak memory in bytes, and whether others outlive it.

    `spawn_time` is how many seconds its start took.
    """

    status: int
    cpu_time: float
    peak_memory: int
    left_behind: bool
    spawn_time: float


CANNOT_START = 126
"""Exit code of a shell for a program that exists but cannot be started."""


class StartError(Exception):
    """A program could not be started; `exit_code` is what a shell would say."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Child:
    """A process below the supervisor.

    `exited` gives its `Exit`, a `StartError`, or a `SandboxError`. `termination` is set when it timed out or exceeded a
    limit (then in `exceeded`), and gives what had to be killed. `on_leftover_limit` is called when its leftover
    processes exceed a limit.
    """

    def __init__(self, number: int, exited: asyncio.Future[Exit]) -> None:
        self.number = number
        self.exited = exited
        self.termination: asyncio.Future[list[KilledProcess]] | None = None
        self.exceeded: ExceededLimit | None = None
        self.on_leftover_limit: Callable[[ExceededLimit], None] = lambda _: None
        self._failure: BaseException | None = None

    def exceed(self, exceeded: ExceededLimit, termination: asyncio.Future[list[KilledProcess]]) -> None:
        """Records that it exceeded a limit and is being ended."""
        if self.exited.done():
            self.on_leftover_limit(exceeded)
        elif self.termination is None:
            self.exceeded, self.termination = exceeded, termination

    def fail_with(self, error: BaseException) -> None:
        """Records that its output cannot be delivered; if it still runs, `exited` raises the error."""
        self._failure = error
        _reject(self.exited, error)

    def raise_failure(self) -> None:
        """Raises the error given to `fail_with`, if any."""
        if self._failure:
            raise self._failure


class SupervisorClient:
    """Connection to one running supervisor. Call it on the event loop only."""

    def __init__(self, channel: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._decoder = wire.Decoder(supervisor_messages.from_json)
        self._descriptors: list[int] = []
        self._exits: dict[int, asyncio.Future[Exit]] = {}
        self._confinements: dict[int, asyncio.Future[str]] = {}
        self._children: WeakValueDictionary[int, Child] = WeakValueDictionary()
        self._terminations: dict[int, tuple[asyncio.Future[list[KilledProcess]], list[int]]] = {}
        self._environment: Mapping[str, str] | None = None
        """Of the program that was started last."""
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()
        self.ready: asyncio.Future[wire.Message] = self._loop.create_future()
        self.lost = asyncio.Event()
        self.messages_received = 0
        self._loss = ""
        self._loop.add_reader(channel, self._receive)

    def start(
        self,
        argv: Sequence[str],
        *,
        execution: int,
        cwd: str,
        environment: Mapping[str, str],
        streams: Sequence[int],
        confined: bool = False,
    ) -> Child:
        """Has a program started. `streams` are descriptors, which stay the caller's: stdout, stderr, perhaps stdin.

        Programs with one `execution` share what they may use. `confined` ones start only from its restricted thread.

        Raises:
            SandboxError: the supervisor is gone.
            StartError: no descriptor is free.
        """
        self._require_supervisor()
        copies = _copies(streams)
        number = next(_numbers)
        exited = self._exits[number] = self._loop.create_future()
        message = {"do": "start", "id": number, "execution": execution, "argv": argv, "cwd": cwd}
        new_environment = None if environment == self._environment else dict(environment)
        more = {
            "environment": new_environment,
            "asked": time.monotonic(),
            "streams": len(copies),
            "confined": confined,
        }
        self._send({**message, **more}, copies)
        if new_environment is not None:
            self._environment = new_environment
        child = self._children[number] = Child(number, exited)
        return child

    async def confine(self, execution: int, rules: Mapping[str, object]) -> str:
        """Has a restricted thread made for an execution; returns why that is not possible, or nothing.

        Raises:
            SandboxError: the supervisor is gone.
        """
        self._require_supervisor()
        number = next(_numbers)
        done = self._confinements[number] = self._loop.create_future()
        self._send({"do": "confine", "id": number, "execution": execution, **rules})
        return str(await done)

    def release(self, execution: int) -> None:
        """Has the restricted thread of an execution ended."""
        self._send({"do": "release", "execution": execution})

    def request_termination(self, children: Sequence[Child]) -> asyncio.Future[list[KilledProcess]]:
        """Requests the end of these children and their descendants; the future gives what had to be killed.

        When the supervisor is lost it gives nothing: the next one ends orphans before it starts anything.
        """
        number = next(_numbers)
        ended: asyncio.Future[list[KilledProcess]] = self._loop.create_future()
        if self.lost.is_set():
            ended.set_result([])
            return ended
        commands = [child.number for child in children]
        self._terminations[number] = (ended, commands)
        self._send({"do": "end", "id": number, "commands": commands})
        return ended

    def take_listener(self) -> socket.socket:
        """Returns the listener that came with `ready`, for the caller to close."""
        return socket.socket(fileno=self._descriptors.pop())

    def ping(self) -> None:
        """Requests a sign of life, which `messages_received` counts as it does all messages."""
        if not self.lost.is_set() and not self._unsent:
            self._send({"do": "ping"})

    def skip_grace(self) -> None:
        """Requests that from now on processes are killed without a grace period."""
        if not self.lost.is_set():
            self._send({"do": "skip_grace"})

    def request_close(self) -> None:
        """Requests the end of all commands, then of the supervisor itself; `lost` is set when it is gone."""
        if not self.lost.is_set():
            self._send({"do": "close"})

    def disconnect(self, reason: str = "") -> None:
        """Closes the channel, at which the supervisor ends everything, and fails all pending calls."""
        if self.lost.is_set():
            return
        self._loss = reason
        self.lost.set()
        self._loop.remove_reader(self._channel)
        self._loop.remove_writer(self._channel)
        self._channel.close()
        _close_all(self._descriptors)
        self._descriptors.clear()
        self._drop_unsent()
        self._fail_waiting()

    def _require_supervisor(self) -> None:
        if self.lost.is_set():
            raise SandboxError("the process supervisor has stopped and is being restarted; try again")

    def _send(self, message: wire.Message, descriptors: Sequence[int] = ()) -> None:
        self._unsent.append((supervisor_messages.encode(message), descriptors))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        """Sends as much as the socket accepts; the rest follows when it is writable."""
        try:
            while self._unsent:
                data, descriptors = self._unsent[0]
                sent = socket.send_fds(self._channel, [data], descriptors)
                _close_all(descriptors)
                self._unsent[0] = (data[sent:], ())
                if sent == len(data):
                    self._unsent.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._channel, self._flush)
        except OSError:
            self.disconnect()
        else:
            self._loop.remove_writer(self._channel)

    def _receive(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._channel, _READ_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        self._descriptors += descriptors
        for message in self._decoder.feed(data):
            self.messages_received += 1
            self._handle(message)
        if not data:
            self.disconnect()

    def _handle(self, message: wire.Message) -> None:
        match message["did"]:
            case "exit":
                exited = Exit(
                    message["status"],
                    message["cpu_time"],
                    message["peak_memory"],
                    message["left_behind"],
                    message["spawn_time"],
                )
                _resolve(self._exits.pop(message["id"], None), exited)
            case "fail":
                _reject(self._exits.pop(message["id"], None), _start_failure(message))
            case "confine":
                _resolve(self._confinements.pop(message["id"], None), message["error"])
            case "exceed":
                self._handle_limit_exceeded(message)
            case "end":
                self._handle_termination(message)
            case "ready":
                _resolve(self.ready, message)

    def _handle_limit_exceeded(self, message: wire.Message) -> None:
        termination: asyncio.Future[list[KilledProcess]] = self._loop.create_future()
        self._terminations[message["end"]] = (termination, [message["id"]])
        if child := self._children.get(message["id"]):
            child.exceed(ExceededLimit(message["limit"], message["allowed"]), termination)

    def _handle_termination(self, message: wire.Message) -> None:
        ended, commands = self._terminations.pop(message["id"])
        for command in commands:
            # Its exit would have come first; only the kernel can hold up a process like this, in a broken device.
            if exited := self._exits.pop(command, None):
                _reject(exited, SandboxError("a process of the command cannot be killed"))
        _resolve(ended, [KilledProcess(pid, name) for pid, name in message["killed"]])

    def _drop_unsent(self) -> None:
        for _, descriptors in self._unsent:
            _close_all(descriptors)
        self._unsent.clear()

    def _fail_waiting(self) -> None:
        reason = f": {self._loss}" if self._loss else ""
        lost = SandboxError(f"the process supervisor was lost, and with it every running command{reason}")
        _reject(self.ready, lost)
        for waiting in self._confinements.values():
            _reject(waiting, lost)
        self._confinements.clear()
        for exited in self._exits.values():
            _reject(exited, lost)
        for ended, _ in self._terminations.values():
            _resolve(ended, [])
        self._exits.clear()
        self._terminations.clear()


def _resolve(future: asyncio.Future[Any] | None, value: object) -> None:
    if future and not future.done():
        future.set_result(value)


def _reject(future: asyncio.Future[Any] | None, error: BaseException) -> None:
    if future and not future.done():
        future.set_exception(error)
        # Marks the exception as retrieved: nobody may be waiting any more.
        future.exception()


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _start_failure(message: wire.Message) -> Exception:
    if message["root_is_gone"]:
        return SandboxError(f"the working directory cannot be entered: {message['text']}")
    return StartError(message["code"], message["text"])


def _copies(descriptors: Sequence[int]) -> Sequence[int]:
    copies: list[int] = []
    try:
        for descriptor in descriptors:
            copies.append(os.dup(descriptor))  # noqa: PERF401  # those made before one fails have to be closed
    except OSError as error:
        _close_all(copies)
        raise StartError(CANNOT_START, f"no descriptor for the command: {error.strerror}") from error
    return copies
