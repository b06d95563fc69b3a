"""What MCP servers can give to a model, and take of our memory."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.capabilities import agent, notices, results, stdio
from tests.agent.http_mcp import answering
from tests.agent.provider import Provider, call_delta, completion, serving_provider
from tests.running import Event, StartService, one, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

SECRET = "s3cret-value"


def tool(name: str, description: str = "", **properties: Any) -> dict[str, Any]:
    """A tool as a server lists it."""
    return {"name": name, "description": description, "inputSchema": {"type": "object", "properties": properties}}


async def offered(
    start: StartService, tmp_path: Path, *tools: dict[str, Any], enabled: Iterable[str] = ()
) -> tuple[list[Event], dict[str, Any]]:
    """Runs an agent with a server that lists these; returns the events, and what a model was offered, by name."""
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(tools))
    async with serving_provider(completion({"content": "Ok."})) as provider:
        client = await start(**openai(provider))
        events = await client.execute(
            agent=agent(mcp_servers=[stdio("lists", str(file), enabled_tools=list(enabled))]),
            environment={"KEY": runner_pb2.EnvironmentValue(value=SECRET, is_secret=True)},
        )
        assert one(events, "finished").output == "Ok."
        functions = [each["function"] for each in provider.requests[0]["tools"]]
    assert SECRET not in str(events) + str(functions)
    return events, {each["name"]: each for each in functions[9:]}


def openai(provider: Provider) -> dict[str, str]:
    """The settings for a provider of ours."""
    return {
        "STIGMER_LLM_PROVIDER": "openai",
        "STIGMER_LLM_MODEL": "tester",
        "STIGMER_LLM_BASE_URL": f"{provider.base_url}/v1",
        "STIGMER_LLM_API_KEY": "of-the-provider",
    }


async def test_no_secret_is_in_what_a_server_says_of_its_tools(start: StartService, tmp_path: Path) -> None:
    listed = tool(f"ask-{SECRET}", f"Uses {SECRET}.", token={"type": "string", "default": SECRET})

    events, functions = await offered(start, tmp_path, listed)

    assert not notices(events)
    [function] = functions.values()
    assert function["name"] == "ask-_redacted_secret_"
    assert function["description"] == "Uses [redacted:secret]."
    assert function["parameters"]["properties"]["token"]["default"] == "[redacted:secret]"


async def test_odd_names_are_made_plain_and_different(start: StartService, tmp_path: Path) -> None:
    names = ["a b", "a.b", "a/b", "é", "x" * 100, "x" * 100 + "y", ""]

    events, functions = await offered(start, tmp_path, *(tool(name) for name in names))

    assert not notices(events)
    assert list(functions) == [
        *("a_b", "test_a_b", "2_test_a_b", "_", "x" * 64, f"test_{'x' * 59}", "tool"),
    ]


async def test_a_tool_with_an_odd_name_is_called_by_its_own(start: StartService, tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([tool("äd d", a={"type": "integer"})]))
    client = await start([turn("", ("_d_d", {"a": 1})), turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[stdio("lists", str(file))]))

    assert results(events) == ["this went wrong"]  # as it says to names that it does not know


async def test_what_is_too_large_or_strange_is_left_out_with_a_notice(start: StartService, tmp_path: Path) -> None:
    listed = [
        tool("wordy", "x" * 40_000),
        tool("huge", "", **{f"field{number}": {"type": "string"} for number in range(3000)}),
        {"name": "no-object", "inputSchema": {"type": "string"}},
        {"name": "bare", "inputSchema": {}},
        tool("fine"),
    ]

    events, functions = await offered(start, tmp_path, *listed)

    assert list(functions) == ["bare", "fine"]
    [(code, text)] = notices(events)
    assert code == "MCP_TOOL_LEFT_OUT"
    assert "wordy: its description has 40,000 bytes, and may have 32,768; huge: its schema has" in text
    assert "no-object: its arguments are no object" in text


async def test_of_too_many_tools_the_first_are_used(start: StartService, tmp_path: Path) -> None:
    events, functions = await offered(start, tmp_path, *(tool(f"tool-{number}") for number in range(150)))

    assert list(functions) == [f"tool-{number}" for number in range(128)]
    [(code, text)] = notices(events)
    assert code == "MCP_TOOL_LEFT_OUT"
    assert text.endswith("; tool-137: more than 128 are too many; and 12 more")


async def test_tools_that_are_not_enabled_count_for_nothing(start: StartService, tmp_path: Path) -> None:
    listed = [tool(f"tool-{number}", "x" * 40_000) for number in range(150)]

    events, functions = await offered(start, tmp_path, *listed, tool("wanted"), enabled=["wanted"])

    assert list(functions) == ["wanted"]
    assert not notices(events)


async def test_a_long_result_is_put_aside_and_the_model_sees_its_ends(start: StartService) -> None:
    call = call_delta(0, json.dumps({"name": "LONG"}), name="variable", call_id="call_1")
    async with serving_provider(completion(call, finish="tool_calls"), completion({"content": "Ok."})) as provider:
        client = await start(**openai(provider))
        long = {"LONG": runner_pb2.EnvironmentValue(value="x" * 100_000)}
        events = await client.execute(agent=agent(mcp_servers=[stdio()]), environment=long)
        seen = provider.requests[1]["messages"][-1]

    assert one(events, "finished").output == "Ok."
    assert "/large_tool_results/" in str(seen)
    assert len(str(seen)) < 60_000


async def test_an_image_is_given_to_the_model_unless_it_is_too_large(start: StartService) -> None:
    calls = [
        call_delta(index, json.dumps({"size": size}), name="image", call_id=f"call_{index}")
        for index, size in enumerate(("400000", "5000000"))
    ]
    async with serving_provider(completion(*calls, finish="tool_calls"), completion({"content": "Ok."})) as provider:
        client = await start(**openai(provider))
        events = await client.execute(agent=agent(mcp_servers=[stdio()]))
        seen = json.dumps(provider.requests[1]["messages"])

    assert one(events, "finished").output == "Ok."
    assert "A" * 400_000 in seen
    assert "A" * 400_001 not in seen
    assert "[image left out, of 3,750,000 bytes]" in results(events)


JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream")


@pytest.mark.parametrize(
    ("body", "headers", "told"),
    [
        ([b"x" * 100_000] * 100, [JSON], "it answered with more than 8,388,608 bytes"),
        ([b"data: ", *[b"x" * 100_000] * 100], [EVENTS], "it answered with more than 8,388,608 bytes"),
        ([b"data: xxxxxxxx\r\n" * 6000] * 100, [EVENTS], "it answered with more than 8,388,608 bytes"),
        ([gzip.compress(b"x" * 100_000_000)], [JSON, (b"content-encoding", b"gzip")], "it answered compressed (gzip)"),
        ([b"<html>"], [(b"content-type", b"text/html; charset=utf-8")], "it answered with text/html"),
    ],
    ids=["JSON", "an event in one line", "an event of many lines", "compressed", "a web page"],
)
async def test_an_answer_over_http_that_cannot_be_taken_is_a_failed_call(
    start: StartService,
    unused_tcp_port: int,
    body: Iterable[bytes],
    headers: list[tuple[bytes, bytes]],
    told: str,
) -> None:
    async with answering(unused_tcp_port, body, *headers) as url:
        http = runner_pb2.HttpServer(url=f"{url}/mcp")
        client = await start([turn("", ("answer", {})), turn("Ok.")])
        events = await client.execute(agent=agent(mcp_servers=[runner_pb2.McpServer(name="web", http=http)]))

    assert not notices(events)
    assert told in results(events)[0]
    assert one(events, "tool_call_finished").outcome == event_pb2.TOOL_OUTCOME_FAILED
    assert one(events, "finished").output == "Ok."


async def test_many_events_before_the_answer_are_no_large_answer(start: StartService, unused_tcp_port: int) -> None:
    note = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"%s"}}\r\n\r\n'
    last = b'data: {"jsonrpc":"2.0","id":@ID@,"result":{"content":[{"type":"text","text":"at last"}]}}\n\n'
    async with answering(unused_tcp_port, [note % (b"x" * 1_000_000)] * 12 + [last], EVENTS) as url:
        http = runner_pb2.HttpServer(url=f"{url}/mcp")
        client = await start([turn("", ("answer", {})), turn("Ok.")])
        events = await client.execute(agent=agent(mcp_servers=[runner_pb2.McpServer(name="web", http=http)]))

    assert results(events) == ["at last"]
