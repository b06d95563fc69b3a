"""Executions that begin at once share the event loop with everything else."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from google.protobuf.message import Message
from tests.agent.bench import Bench, Played, turn

from runner_service.v1 import execution_event_pb2 as event_pb2

EXECUTIONS = 9


@contextmanager
def counting_turns() -> Iterator[Callable[[], int]]:
    """Counts the turns of the event loop: gives the number of the current one."""
    loop, count, is_over = asyncio.get_running_loop(), 0, False

    def begin_turn() -> None:
        nonlocal count
        count += 1
        if not is_over:
            loop.call_soon(begin_turn)

    begin_turn()
    try:
        yield lambda: count
    finally:
        is_over = True


async def test_four_at_most_begin_in_a_turn_of_the_loop_in_order_and_all_of_them_end(bench: Bench) -> None:
    model = bench.script([turn("Done.")])
    await bench.run(model)  # compiles the agent, for which all would wait
    ready_count = 0
    began: list[str] = []
    said: list[tuple[int, str]] = []
    all_ready = asyncio.Event()

    async def run(name: str, current_turn: Callable[[], int]) -> Played:
        async def ready() -> None:
            nonlocal ready_count
            ready_count += 1
            if ready_count == EXECUTIONS:
                all_ready.set()
            await all_ready.wait()
            began.append(name)

        def watch(event: Message) -> None:
            if isinstance(event, event_pb2.MessageFinished):
                said.append((current_turn(), name))

        return await bench.run(model, execution_id=name, ready=ready, watch=watch)

    with counting_turns() as current_turn:
        played = await asyncio.gather(*(run(f"at-once-{number}", current_turn) for number in range(EXECUTIONS)))

    assert [each.answer for each in played] == ["Done."] * EXECUTIONS
    assert [name for _, name in said] == began
    assert max(Counter(number for number, _ in said).values()) <= 4
