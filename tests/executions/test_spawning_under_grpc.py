"""Children started while gRPC is at work begin and end well: a fork of a process with gRPC's threads would now and then
die before it runs anything."""

import asyncio
from collections import Counter

from tests.running import Event, StartService, command, stdout_of, turn

EXECUTIONS = 20
COMMANDS = 30


async def test_six_hundred_spawns_under_live_streams_all_exit_well(start: StartService) -> None:
    commands = [command(f"echo out-{number}; echo err-{number} >&2") for number in range(COMMANDS)]
    client = await start([turn("", *commands), turn("Done.")])

    runs = await asyncio.gather(*(client.execute() for _ in range(EXECUTIONS)))

    for events in runs:
        exits = [event.tool_call_finished.exit_code for event in events if event.HasField("tool_call_finished")]
        assert exits == [0] * COMMANDS
        assert Counter(stdout_of(events).splitlines()) == Counter(b"out-%d" % number for number in range(COMMANDS))
        assert Counter(stderr_of(events).splitlines()) == Counter(b"err-%d" % number for number in range(COMMANDS))


def stderr_of(events: list[Event]) -> bytes:
    return b"".join(event.tool_output.stderr for event in events)
