"""The demonstration that plays when no script is configured."""

import re

from tests.agent.bench import Bench

from runner_service.models import DEMO_SCRIPT, ModelChoice
from runner_service.v1 import execution_event_pb2 as event_pb2


async def test_the_demonstration_does_real_work_with_every_kind_of_tool(bench: Bench) -> None:
    hurried = bench.scripts / "hurried.yaml"
    hurried.write_text(re.sub(r"delay: .*", "delay: 0", DEMO_SCRIPT.read_text()).replace("sleep 0.1\n", "sleep 0.01\n"))
    played = await bench.run(ModelChoice("scripted", "scripted", script=hurried), message="Show me.")

    assert played.answer is not None
    assert "It is right" in played.answer
    outcomes = {each.tool_call_id: each.outcome for each in played.all("tool_call_finished")}
    assert set(outcomes.values()) == {event_pb2.TOOL_OUTCOME_SUCCEEDED}
    first, second = [
        played.output(each.tool_call_id).decode() for each in played.all("tool_call_started") if each.name == "execute"
    ]
    assert "9 is prime" in first
    assert "9 is prime" not in second
    assert "found 6 of 6" in second
    assert (bench.root / "primes.txt").read_text().count("\n") == 6
    kinds = {each.kind for each in played.all("tool_call_started")}
    assert len(kinds) == 6
    assert len(played.all("tool_output")) > 10
    assert played.one("sub_agent_started").name == "general-purpose"
