"""The supervisor's single-threaded loop: messages, exited children, and due checks."""

import contextlib
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Sequence
from math import inf
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple

from runner_service.executors.supervisor import spawn, wire
from runner_service.executors.supervisor.child_signals import open_child_signals
from runner_service.executors.supervisor.dumpable import make_undumpable
from runner_service.executors.supervisor.oom_score import RaisedOomScore
from runner_service.executors.supervisor.process_ownership import create_ownership, kill_tagged
from runner_service.executors.supervisor.tags import Span
from runner_service.executors.supervisor.termination import MAX_NAMED_PROCESSES, Termination
from runner_service.executors.supervisor.watchdog import Quota, QuotaViolation, Watchdog

if TYPE_CHECKING:
    from runner_service.executors.supervisor.restrict import RestrictedThread

_READ_BYTES = 65536
_DESCRIPTORS_PER_READ = 64
_REPARENTING_TIMEOUT_SECONDS = 1.0
_REPARENTING_INTERVAL_SECONDS = 0.01
_NICE = -10
_PEAK_UNIT = 1 if sys.platform == "darwin" else 1024


class Greeting(NamedTuple):
    """More to say when ready, with descriptors for the service."""

    about: wire.Message
    descriptors: Sequence[int]


class Supervisor:
    """Serves one service until it sends `close` or disconnects, then ends all processes."""

    def __init__(self, service: socket.socket, grace: float, quota: Quota, greeting: "Greeting") -> None:
        self._service = service
        self._greeting = greeting
        self._grace = grace
        self._raised_score = RaisedOomScore()
        make_undumpable()
        self._ownership = create_ownership()
        self._watchdog = Watchdog(self._ownership, quota)
        self._decoder = wire.Decoder()
        self._descriptors: list[int] = []
        self._terminations: list[tuple[int, Termination]] = []
        self._shutdown: Termination | None = None
        self.was_told_to_close = False
        self._environment: dict[str, str] = {}
        self._spawn_times: dict[int, float] = {}
        self._restricted: dict[int, RestrictedThread] = {}
        self._children_changed = open_child_signals()

    def serve(self) -> None:
        """Runs until all processes have ended."""
        self._send_ready()
        poll = select.poll()
        poll.register(self._service, select.POLLIN)
        poll.register(self._children_changed, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(self._poll_timeout_ms())}
            if self._children_changed in ready:
                self._reap()
            if self._service.fileno() in ready and not self._receive():
                poll.unregister(self._service)
                self._shutdown = self._shutdown or Termination(self._ownership, None, self._grace)
            self._continue_endings()
            for violation in self._watchdog.check_when_due():
                self._end_exceeding(violation)
            if self._shutdown and monotonic() >= self._shutdown.next_check and self._shutdown.step():
                return

    def _send_ready(self) -> None:
        zone = self._ownership.zone
        control = f"{self._ownership.control}+watchdog" if self._watchdog.is_in_force else self._ownership.control
        about, descriptors = self._greeting
        ready = {"did": "ready", "control": control, "zone": list(zone.span) if zone else None, **about}
        # The next read notices that the service is gone.
        with contextlib.suppress(OSError):
            socket.send_fds(self._service, [wire.encode(ready)], descriptors)

    def _send(self, message: wire.Message) -> None:
        self._send_bytes(wire.encode(message))

    def _send_bytes(self, data: bytes) -> None:
        # The next read notices that the service is gone.
        with contextlib.suppress(OSError):
            self._service.sendall(data)

    def _poll_timeout_ms(self) -> float | None:
        """Returns the milliseconds until the next due check; None if there is none."""
        terminations = [ending for _, ending in self._terminations] + ([self._shutdown] if self._shutdown else [])
        next_check = min(self._watchdog.next_check, *(ending.next_check for ending in terminations), inf)
        return None if next_check == inf else max(0.0, next_check - monotonic()) * 1000

    def _receive(self) -> bool:
        """Reads and handles messages; False once the service has disconnected."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._service, _READ_BYTES, _DESCRIPTORS_PER_READ)
        except OSError:
            return False
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors += descriptors
        for message in self._decoder.feed(data):
            self._handle(message)
        return bool(data)

    def _handle(self, message: wire.Message) -> None:
        match message["do"]:
            case "start":
                self._start(message)
            case "end":
                self._terminations.append(
                    (message["id"], Termination(self._ownership, message["commands"], self._grace))
                )
            case "confine":
                self._confine(message)
            case "release":
                if thread := self._restricted.pop(message["execution"], None):
                    thread.close()
            case "ping":
                self._send({"did": "pong"})
            case "skip_grace":
                self._grace = 0.0
                for _, termination in self._terminations:
                    termination.skip_grace()
            case "close":
                self.was_told_to_close = True
                self._shutdown = Termination(self._ownership, None, self._grace)

    def _start(self, message: wire.Message) -> None:
        command = message["id"]
        if message["environment"] is not None:
            self._environment = message["environment"]
        stdout, stderr, *stdin = streams = self._descriptors[: message["streams"]]
        del self._descriptors[: message["streams"]]
        try:
            with self._ownership.marking(command), self._raised_score:
                pid = self._spawn(message, stdout, stderr, *stdin)
            self._spawn_times[command] = monotonic() - message["asked"]
            self._ownership.started(command, pid)
            self._watchdog.started(command, message["execution"])
        except (spawn.RootGoneError, OSError, ValueError) as error:
            self._ownership.remove_commands([command])
            self._send_failed(command, error)
        finally:
            for descriptor in streams:
                os.close(descriptor)

    def _spawn(self, message: wire.Message, *streams: int) -> int:
        argv, cwd, environment = message["argv"], message["cwd"], self._environment
        if not message["confined"]:
            return spawn.spawn(argv, cwd, environment, *streams)
        thread = self._restricted.get(message["execution"])
        if thread is None:
            raise OSError("the thread of this execution is not restricted")
        return thread.run(lambda: spawn.spawn(argv, cwd, environment, *streams))

    def _confine(self, message: wire.Message) -> None:
        from runner_service.executors.supervisor.restrict import RestrictedThread, Rules  # noqa: PLC0415  # slow, rarely used

        error = ""
        try:
            rules = Rules(message["paths"], message["has_network"])
            self._restricted[message["execution"]] = RestrictedThread(rules)
        except Exception as failure:  # noqa: BLE001  # whatever it is, nothing runs
            error = str(failure) or type(failure).__name__
        self._send({"did": "confine", "id": message["id"], "error": error})

    def _send_failed(self, command: int, error: Exception) -> None:
        is_root = isinstance(error, spawn.RootGoneError)
        code = spawn.exit_code_of(error)
        self._send({"did": "fail", "id": command, "code": code, "text": str(error), "root_is_gone": is_root})

    def _reap(self) -> None:
        """Waits for every child that has exited; all children are commands or adopted orphans."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._children_changed, _READ_BYTES)
        exits, is_alone = _exits()
        for pid, status, usage in exits:
            command = self._ownership.reaped(pid)
            if command is not None:
                left_behind = not is_alone and self._ownership.left_behind(command)
                self._send_exited(command, status, usage, left_behind=left_behind)
                if not left_behind:
                    self._ownership.remove_commands([command])

    def _send_exited(self, command: int, status: int, usage: resource.struct_rusage, *, left_behind: bool) -> None:
        self._send_bytes(
            wire.encode_exit(
                command,
                status,
                spawn_time=self._spawn_times.pop(command, 0.0),
                cpu_time=usage.ru_utime + usage.ru_stime,
                peak_memory=usage.ru_maxrss * _PEAK_UNIT,
                left_behind=left_behind,
            )
        )

    def _end_exceeding(self, violation: QuotaViolation) -> None:
        """Ends a command that exceeded its quota, without a grace period if it could keep growing."""
        grace = self._grace if violation.limit == "cpu_time" else 0.0
        number = -violation.command
        self._terminations.append((number, Termination(self._ownership, [violation.command], grace)))
        self._send(
            {
                "did": "exceed",
                "id": violation.command,
                "limit": violation.limit,
                "allowed": violation.allowed,
                "end": number,
            }
        )

    def _continue_endings(self) -> None:
        for entry in list(self._terminations):
            request, ending = entry
            if monotonic() >= ending.next_check and ending.step():
                self._terminations.remove(entry)
                self._reap()
                self._ownership.remove_commands(ending.commands or ())
                killed = [[pid, name] for (pid, _), name in ending.killed.items()][:MAX_NAMED_PROCESSES]
                self._send({"did": "end", "id": request, "killed": killed})


def _exits() -> tuple[list[tuple[int, int, resource.struct_rusage]], bool]:
    """Returns the children that exited since the last call, and whether none is left."""
    exits = []
    try:
        while (ended := os.wait4(-1, os.WNOHANG))[0]:
            exits.append(ended)
    except ChildProcessError:
        return exits, True
    return exits, False


def main(arguments: list[str], about: wire.Message | None = None, descriptors: Sequence[int] = ()) -> None:
    """Runs the supervisor.

    Args:
        arguments: socket descriptor, grace in seconds, the quota's three values, and pairs of numbers, each a span of
            tags: first that of the service's cells, which are killed if the service dies, then those of an earlier
            service and supervisor, which are killed at once.
        about: more to say when ready.
        descriptors: for the service, sent with it.
    """
    descriptor, grace, memory, processes, cpu_time, *numbers = arguments
    cells, *orphans = [Span(low, high) for low, high in zip(*[map(int, numbers)] * 2, strict=True)] or [Span(0, 0)]
    parent = os.getppid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    _take_precedence()
    for span in orphans:
        kill_tagged(span)
    with socket.socket(fileno=int(descriptor)) as service:
        os.set_inheritable(service.fileno(), False)
        quota = Quota(int(memory), int(processes), float(cpu_time))
        supervisor = Supervisor(service, float(grace), quota, Greeting(about or {}, descriptors))
        supervisor.serve()
    if cells.high and not supervisor.was_told_to_close and _has_died(parent):
        kill_tagged(cells)


def _take_precedence() -> None:
    """Lets the supervisor run before the commands that it has to end, which do not inherit it."""
    if sys.platform == "linux" and os.getpriority(os.PRIO_PROCESS, 0) == 0:
        with contextlib.suppress(OSError):  # without CAP_SYS_NICE it has the same share as others
            os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)


def _has_died(parent: int) -> bool:
    """Returns whether the parent is gone. Its descriptors are closed a moment before its children get another one."""
    end = monotonic() + _REPARENTING_TIMEOUT_SECONDS
    while os.getppid() == parent and monotonic() < end:
        sleep(_REPARENTING_INTERVAL_SECONDS)
    return os.getppid() != parent
