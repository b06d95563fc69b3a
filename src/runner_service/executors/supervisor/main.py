"""The supervisor itself: one thread that waits for messages, for children, and for the next look at what is ending."""

import contextlib
import os
import resource
import select
import signal
import socket
import sys
from math import inf
from time import monotonic

from runner_service.executors.supervisor import spawn, wire
from runner_service.executors.supervisor.oom_score import Score
from runner_service.executors.supervisor.ownership import clear, take_ownership
from runner_service.executors.supervisor.privacy import hide_from_own_user
from runner_service.executors.supervisor.tags import Span, Zone
from runner_service.executors.supervisor.termination import KILLED_AT_MOST, Ending
from runner_service.executors.supervisor.watchdog import Excess, Quota, Watchdog

_READ_BYTES = 65536
_DESCRIPTORS_PER_READ = 64
_PEAK_UNIT = 1 if sys.platform == "darwin" else 1024


class Supervisor:
    """Serves one service until it says `close` or is gone, and ends everything then."""

    def __init__(self, service: socket.socket, grace: float, quota: Quota) -> None:
        self._service = service
        self._grace = grace
        self._score = Score()
        hide_from_own_user()
        self._ownership = take_ownership()
        self._watchdog = Watchdog(self._ownership, quota)
        self._decoder = wire.Decoder()
        self._descriptors: list[int] = []
        self._endings: list[tuple[int, Ending]] = []
        self._last: Ending | None = None
        self._spawn_times: dict[int, float] = {}
        self._children_changed, wake = os.pipe()
        for descriptor in (self._children_changed, wake):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Runs until nothing is left to do."""
        self._say_ready()
        poll = select.poll()
        poll.register(self._service, select.POLLIN)
        poll.register(self._children_changed, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(self._pause())}
            if self._children_changed in ready:
                self._reap()
            if self._service.fileno() in ready and not self._receive():
                poll.unregister(self._service)
                self._last = self._last or Ending(self._ownership, None, self._grace)
            self._continue_endings()
            for excess in self._watchdog.look_when_due():
                self._end_excess(excess)
            if self._last and monotonic() >= self._last.next_look and self._last.step():
                return

    def _say_ready(self) -> None:
        zone = self._ownership.zone
        control = f"{self._ownership.control}+watchdog" if self._watchdog.is_in_force else self._ownership.control
        self._say({"did": "ready", "control": control, "zone": list(zone.span) if zone else None})

    def _say(self, message: wire.Message) -> None:
        # A service that is gone is noticed by the next read.
        with contextlib.suppress(OSError):
            self._service.sendall(wire.encode(message))

    def _pause(self) -> float | None:
        """Returns for how many milliseconds there is nothing to do."""
        endings = [ending for _, ending in self._endings] + ([self._last] if self._last else [])
        next_look = min(self._watchdog.next_look, *(ending.next_look for ending in endings), inf)
        return None if next_look == inf else max(0.0, next_look - monotonic()) * 1000

    def _receive(self) -> bool:
        """Reads and acts; False at the end of the service."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._service, _READ_BYTES, _DESCRIPTORS_PER_READ)
        except OSError:
            return False
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors += descriptors
        for message in self._decoder.feed(data):
            self._act(message)
        return bool(data)

    def _act(self, message: wire.Message) -> None:
        match message["do"]:
            case "start":
                self._start(message)
            case "end":
                self._endings.append((message["id"], Ending(self._ownership, message["commands"], self._grace)))
            case "close":
                self._last = Ending(self._ownership, None, self._grace)

    def _start(self, message: wire.Message) -> None:
        command = message["id"]
        stdout, stderr, *stdin = streams = self._descriptors[: message["streams"]]
        del self._descriptors[: message["streams"]]
        try:
            with self._ownership.marking(command), self._score.first_to_go():
                pid = spawn.spawn(message["argv"], message["cwd"], message["environment"], stdout, stderr, *stdin)
            self._spawn_times[command] = monotonic() - message["asked"]
            self._ownership.started(command, pid)
            self._watchdog.started(command, message["execution"])
        except (spawn.RootGoneError, OSError, ValueError) as error:
            self._ownership.forget([command])
            self._say_failed(command, error)
        finally:
            for descriptor in streams:
                os.close(descriptor)

    def _say_failed(self, command: int, error: Exception) -> None:
        is_root = isinstance(error, spawn.RootGoneError)
        code = spawn.exit_code_of(error)
        self._say({"did": "fail", "id": command, "code": code, "text": str(error), "root_is_gone": is_root})

    def _reap(self) -> None:
        """Takes the exit of every child that has ended; all of them are ours."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._children_changed, _READ_BYTES)
        exits, is_alone = _exits()
        for pid, status, usage in exits:
            command = self._ownership.reaped(pid)
            if command is not None:
                left_behind = not is_alone and self._ownership.left_behind(command)
                if not left_behind:
                    self._ownership.forget([command])
                self._say_exited(command, status, usage, left_behind=left_behind)

    def _say_exited(self, command: int, status: int, usage: resource.struct_rusage, *, left_behind: bool) -> None:
        self._say(
            {
                "did": "exit",
                "id": command,
                "status": status,
                "spawn_time": self._spawn_times.pop(command, 0.0),
                "cpu_time": usage.ru_utime + usage.ru_stime,
                "peak_memory": usage.ru_maxrss * _PEAK_UNIT,
                "left_behind": left_behind,
            }
        )

    def _end_excess(self, excess: Excess) -> None:
        """Ends a command that uses too much: at once, if it would go on growing while it is asked."""
        grace = self._grace if excess.limit == "cpu_time" else 0.0
        number = -excess.command
        self._endings.append((number, Ending(self._ownership, [excess.command], grace)))
        self._say(
            {
                "did": "exceed",
                "id": excess.command,
                "limit": excess.limit,
                "allowed": excess.allowed,
                "end": number,
            }
        )

    def _continue_endings(self) -> None:
        for entry in list(self._endings):
            request, ending = entry
            if monotonic() >= ending.next_look and ending.step():
                self._endings.remove(entry)
                self._reap()
                self._ownership.forget(ending.commands or ())
                killed = [[pid, name] for (pid, _), name in ending.killed.items()][:KILLED_AT_MOST]
                self._say({"did": "end", "id": request, "killed": killed})


def _exits() -> tuple[list[tuple[int, int, resource.struct_rusage]], bool]:
    """Returns the children that have ended since the last call, and whether no other is left."""
    exits = []
    with contextlib.suppress(ChildProcessError):
        while (ended := os.wait4(-1, os.WNOHANG))[0]:
            exits.append(ended)
        return exits, False
    return exits, True


def main(arguments: list[str]) -> None:
    """Takes the number of the socket, the grace, the quota, and the zone to clear first, as two numbers or none."""
    descriptor, grace, memory, processes, cpu_time, *span = arguments
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    if span:
        clear(Zone(Span(int(span[0]), int(span[1]))))
    with socket.socket(fileno=int(descriptor)) as service:
        os.set_inheritable(service.fileno(), False)
        Supervisor(service, float(grace), Quota(int(memory), int(processes), float(cpu_time))).serve()
