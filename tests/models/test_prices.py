"""What executions cost, by the operator's prices."""

from pathlib import Path

import pytest
from tests.running import StartProcess, StartService, command, one, turn
from tests.scraping import metrics_url, scrape

from runner_service.models.prices import PricesFileError, read_prices_file
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

PRICES = """
currency: USD
per_million_tokens:
  scripted/scripted: {input: 2, cached_input: 0.5, output: 10.25}
"""
USAGE = {"input_tokens": 1000, "output_tokens": 100, "cached_tokens": 400}
NANOS_OF_A_CALL = (600 * 2 + 400 * 0.5 + 100 * 10.25) * 1000


def prices_file(directory: Path, text: str = PRICES) -> str:
    path = directory / "prices.yaml"
    path.write_text(text)
    return str(path)


async def test_an_execution_tells_what_it_cost(start_process: StartProcess, tmp_path: Path) -> None:
    turns = [turn("", command("true"), usage=USAGE), turn("Done.", usage=USAGE)]
    client = (await start_process(turns, PRICES_FILE=prices_file(tmp_path), METRICS_ADDRESS="127.0.0.1:0")).client

    events = await client.execute(execution_id="a")

    cost = one(events, "finished").cost
    assert (cost.currency, cost.nanos, cost.unpriced_model_calls) == ("USD", 2 * NANOS_OF_A_CALL, 0)
    steps = [each.usage_updated.cost.nanos for each in events if each.HasField("usage_updated")]
    assert steps == [NANOS_OF_A_CALL, 2 * NANOS_OF_A_CALL]
    stored = await client.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id="a"))
    assert stored.execution.cost == cost
    scraped = await scrape(metrics_url(tmp_path / "state"))
    assert scraped.value("runner_model_cost_total", currency="USD") == pytest.approx(2 * NANOS_OF_A_CALL / 1e9)


async def test_the_cost_of_an_earlier_process_is_kept(start_process: StartProcess, tmp_path: Path) -> None:
    turns = [turn("", command("true"), usage=USAGE), turn("Done.", usage=USAGE)]
    variables = {"PRICES_FILE": prices_file(tmp_path), "APPROVAL_HOLD": "0"}
    service = await start_process(turns, **variables)
    policy = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_COMMANDS)
    request = service.client.request(execution_id="a", approval_policy=policy)
    events = await service.client.collect(
        service.stub.ExecuteAgent(request), until=lambda event: event.HasField("approval_requested")
    )
    await service.kill()

    later = await start_process(**variables)
    call = later.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a"))
    asked = one(events, "approval_requested")
    await later.stub.SubmitApproval(
        runner_pb2.SubmitApprovalRequest(
            execution_id="a", tool_call_id=asked.tool_call_id, action=event_pb2.APPROVAL_ACTION_APPROVE
        )
    )

    assert one(await later.client.collect(call), "finished").cost.nanos == 2 * NANOS_OF_A_CALL


async def test_calls_without_a_price_are_counted_and_without_a_file_nothing_is_said(
    start: StartService, tmp_path: Path
) -> None:
    other = "{currency: EUR, per_million_tokens: {openai/x: {input: 1, output: 1}}}"
    client = await start([turn("Done.", usage=USAGE)], PRICES_FILE=prices_file(tmp_path, other))
    cost = one(await client.execute(), "finished").cost
    assert (cost.currency, cost.nanos, cost.unpriced_model_calls) == ("EUR", 0, 1)

    client = await start([turn("Done.", usage=USAGE)], STATE_DIR=str(tmp_path / "other"))
    assert not one(await client.execute(), "finished").HasField("cost")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "is not YAML"),
        ("{}", "currency: Field required"),
        ("{currency: USD, per_million_tokens: {a/b: {input: -1, output: 1}}}", "per_million_tokens.a/b.input"),
        ("{currency: dollars, per_million_tokens: {}}", "currency: "),
        ("{currency: USD, per_million_tokens: {a/b: {input: 1, output: 1, cahced: 1}}}", "Extra inputs"),
    ],
)
def test_a_price_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PricesFileError, match="PRICES_FILE") as refused:
        read_prices_file(Path(prices_file(tmp_path, text)))
    assert said in str(refused.value)
