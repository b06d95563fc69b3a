"""The parts of the supervisor, and what it does on lesser machines."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path

import pytest

from runner_service.executors.local import supervisor_messages
from runner_service.executors.local.supervisor_process import PACKAGES
from runner_service.executors.supervisor import process_table, wire
from runner_service.executors.supervisor.process_ownership import Groups
from runner_service.executors.supervisor.spawn import spawn
from runner_service.executors.supervisor.tags import RLIMIT_LOCKS, Slots, Zone, zone_below
from runner_service.executors.supervisor.termination import Termination

ORDINARY_USER = Path(__file__).with_name("ordinary_user.py")
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def zone_in(limits: tuple[int, int]) -> Zone:
    zone = zone_below(limits)
    assert zone is not None
    return zone


def test_messages_come_out_of_any_pieces_as_they_went_in() -> None:
    messages: list[wire.Message] = [{"do": "start", "text": "é\n\udcff", "list": [1, 2]}, {"x": "y" * 100_000}, {}]
    stream = b"".join(wire.encode(message) for message in messages)
    for size in (1, 3, 4096, len(stream)):
        decoder = wire.Decoder()
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert [message for piece in pieces for message in decoder.feed(piece)] == messages


def test_both_sides_read_what_the_other_writes_lone_surrogates_too() -> None:
    messages: list[wire.Message] = [{"argv": ("bash", "é"), "asked": 1.5}, {"killed": [[3, "a\udcff"]]}, {}]
    sides = [(supervisor_messages.encode, wire.from_json), (wire.encode, supervisor_messages.from_json)]
    for encode, from_json in sides:
        decoder = wire.Decoder(from_json)
        read = [each for message in messages for each in decoder.feed(encode(message))]
        assert read == [{"argv": ["bash", "é"], "asked": 1.5}, *messages[1:]]


def test_an_exit_is_written_like_any_message() -> None:
    values = {"status": 9, "spawn_time": 1e-05, "cpu_time": 0.25, "peak_memory": 2**40, "left_behind": True}
    (message,) = wire.Decoder().feed(wire.encode_exit(7, **values))  # type: ignore[arg-type]  # of several types
    assert message == {"did": "exit", "id": 7, **values}


WAITS_FOR_CHILDREN = """
import os, select, sys
sys.path.insert(0, sys.argv[2])
from runner_service.executors.supervisor import child_signals, spawn
descriptor = getattr(child_signals, sys.argv[1])()
poll = select.poll()
poll.register(descriptor, select.POLLIN)
for _ in range(2):
    assert not poll.poll(0)
    spawn.spawn(["/bin/sh", "-c", "trap 'exit 7' CHLD; kill -CHLD $$"], "/", {"PATH": os.environ["PATH"]}, 1, 2)
    assert poll.poll(60_000)
    os.read(descriptor, 65536)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 7  # what is blocked here is not blocked there
"""


@pytest.mark.parametrize("way", ["open_child_signals", "_pipe_written_by_handler"])
def test_the_exit_of_a_child_is_told_once_with_and_without_signalfd(way: str) -> None:
    interpreter = [sys.executable, "-I", "-S", "-c", WAITS_FOR_CHILDREN, way, str(PACKAGES)]
    subprocess.run(interpreter, check=True, preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))


def test_every_slot_has_its_own_tag_inside_the_zone() -> None:
    zone = zone_in(UNLIMITED)
    tags = [zone.tag(slot) for slot in range(1023)]
    assert all(zone.span.low < tag < zone.span.high for tag in tags)
    assert [zone.slot_of((tag, zone.span.high)) for tag in tags] == list(range(1023))
    assert all(low < high for low, high in pairwise(tags))


def test_the_supervisor_and_strangers_are_in_no_slot() -> None:
    zone = zone_in(UNLIMITED)
    for limits in [UNLIMITED, (0, 0), (zone.span.high, zone.span.high), (zone.span.low, zone.span.low)]:
        assert zone.slot_of(limits) is None


def test_a_zone_within_a_command_lies_in_that_commands_slot() -> None:
    outer = zone_in(UNLIMITED)
    inner = zone_in((outer.tag(7), outer.span.high))
    for limit in (inner.tag(0), inner.tag(1022), inner.span.high):
        assert outer.slot_of((limit, inner.span.high)) == 7
        assert outer.slot_of((3, inner.span.high)) == 7
        assert outer.span.holds((limit, limit))


@pytest.mark.parametrize("limits", [(0, 0), (100, 100), (12345, 2**59), (2**24 + 1, 2**30)])
def test_limits_that_leave_no_room_give_no_zone(limits: tuple[int, int]) -> None:
    assert zone_below(limits) is None


def test_within_a_command_within_a_command_there_is_no_room() -> None:
    outer = zone_in(UNLIMITED)
    inner = zone_in((outer.tag(7), outer.span.high))
    assert zone_below((inner.tag(3), inner.span.high)) is None


def test_a_slot_is_not_soon_used_again_and_they_run_out() -> None:
    slots = Slots()
    first = slots.acquire_slot()
    assert first is not None
    slots.release_slot(first)
    taken = [slots.acquire_slot() for _ in range(1023)]
    assert taken[-1] == first
    assert slots.acquire_slot() is None


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_tag_survives_what_sheds_everything_else() -> None:
    script = "env -i setsid -f sh -c 'echo $$; exec sleep 74.01 > /dev/null'"
    before = resource.getrlimit(RLIMIT_LOCKS)
    resource.setrlimit(RLIMIT_LOCKS, (2**40, before[1]))
    try:
        pid = int(subprocess.check_output(["sh", "-c", script], stderr=subprocess.DEVNULL).split()[0])
    finally:
        resource.setrlimit(RLIMIT_LOCKS, before)
    try:
        assert process_table.limits_of(pid) == (2**40, before[1])
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_process_that_got_the_pid_of_another_is_not_signalled() -> None:
    child = subprocess.Popen(["sleep", "74.02"])
    try:
        seen = process_table.process(child.pid)
        assert seen is not None
        earlier = seen._replace(start=seen.start - 1)
        assert process_table.send(earlier, signal.SIGKILL)
        assert process_table._send_by_number(earlier, signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.1)
        assert process_table._send_by_number(seen, signal.SIGTERM)
        assert child.wait(10) == -signal.SIGTERM
        assert process_table.send(seen, signal.SIGTERM)
    finally:
        child.kill()
        child.wait()


def test_where_there_is_no_subreaper_the_group_is_ended() -> None:
    groups = Groups()
    text = "sleep 74.03 & trap '' TERM; sleep 74.03; sleep 74.03"
    with Path(os.devnull).open("wb") as nothing, groups.marking(1):
        pid = spawn(["/bin/sh", "-c", text], "/", {"PATH": os.environ["PATH"]}, nothing.fileno(), nothing.fileno())
    groups.started(1, pid)
    ending = Termination(groups, [1], grace=0.1)
    while not ending.step():
        time.sleep(max(0.0, ending.next_check - time.monotonic()))
        if (reaped := os.waitpid(-pid, os.WNOHANG) if pid in groups._shells else (0, 0))[0]:
            assert groups.reaped(reaped[0]) == 1
    assert not groups.left_behind(1)
    assert set(ending.killed.values()) == {"process group"}


class Multiplying(Groups):
    """A command that has one process more whenever it is looked at, until a moment of the monotonic clock."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self._end = end
        self._processes = 0

    def members(self, commands: Collection[int] | None) -> list[process_table.Process]:
        del commands
        self._processes += 1
        new = process_table.Process(self._processes, 1, "bomb", is_alive=True, parent=1, session=1)
        return [new] if time.monotonic() < self._end else []

    def send(self, target: process_table.Process, *signals: signal.Signals) -> bool:
        del target, signals
        return True


def test_what_multiplies_is_not_given_up() -> None:
    end = time.monotonic() + 6  # longer than one process is waited for
    ending = Termination(Multiplying(end), [1], grace=0)
    while not ending.step():
        time.sleep(max(0.0, ending.next_check - time.monotonic()))
    assert time.monotonic() >= end


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
async def test_where_no_tag_can_be_set_descent_tells_whose_they_are(tmp_path: Path) -> None:
    without_tags = ["prlimit", "--locks=100:100", sys.executable, str(ORDINARY_USER), str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*without_tags, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert said.decode().splitlines()[:3] == ["subreaper+guardian", "124 True", "0 left"]
