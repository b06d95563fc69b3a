"""What MCP servers answer, in the form that each provider takes, and servers that fail for a moment."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.agent.capabilities import agent, notices, results, stdio
from tests.agent.http_mcp import failing_once, served_over_http
from tests.agent.provider import Reply, call_delta, completion, serving_provider
from tests.agent.test_other_providers import anthropic_message, ollama_answer
from tests.models.strict import problems
from tests.running import StartService, command, one, turn

from runner_service.agent.mcp.schemas import object_schema
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

PNG = {"type": "image", "data": "AAAA", "mimeType": "image/png"}
LINK = {"type": "resource_link", "name": "report", "uri": "file:///r.pdf", "mimeType": "application/pdf"}
RESULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a resource link": ({"content": [LINK]}, "[resource report: file:///r.pdf (application/pdf)]"),
    "a link with a size": ({"content": [{**LINK, "size": 5000, "description": "Last."}]}, "5,000 bytes)] Last."),
    "an image": ({"content": [PNG]}, "image/png"),
    "an image of an odd kind": ({"content": [{**PNG, "mimeType": "image/tiff"}]}, "[image, image/tiff, 3 bytes]"),
    "text and an image": ({"content": [{"type": "text", "text": "Look:"}, PNG]}, "Look:"),
    "a blob": (
        {"content": [{"type": "resource", "resource": {"uri": "x://y", "blob": "AAAA", "mimeType": "a/b"}}]},
        "[resource x://y: a/b, 3 bytes]",
    ),
    "a blob that is an image": (
        {"content": [{"type": "resource", "resource": {"uri": "x://y", "blob": "AAAA", "mimeType": "image/png"}}]},
        "image/png",
    ),
    "a text resource": (
        {"content": [{"type": "resource", "resource": {"uri": "x://y", "text": "inside"}}]},
        "inside",
    ),
    "audio": ({"content": [{"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}]}, "audio left out"),
    "only structured content": ({"content": [], "structuredContent": {"n": 7}}, '{"n": 7}'),
    "nothing": ({"content": []}, "the tool returned nothing"),
    "empty text": ({"content": [{"type": "text", "text": ""}]}, "the tool returned nothing"),
    "half a surrogate pair": ({"content": [{"type": "text", "text": "half: \ud83d"}]}, "half: \ufffd"),
    "a failure with an image": (
        {"isError": True, "content": [{"type": "text", "text": "it broke"}, PNG]},
        "it broke",
    ),
}


def replies(provider: str, *outcomes: dict[str, Any]) -> list[Reply]:
    """A model that calls `raw` once for each of these results, and then answers."""
    arguments = [{"result": json.dumps(each)} for each in outcomes]
    if provider == "openai":
        calls = [
            call_delta(number, json.dumps(each), name="raw", call_id=f"call_{number}")
            for number, each in enumerate(arguments)
        ]
        return [completion(*calls, finish="tool_calls"), completion({"content": "Ok."})]
    if provider == "ollama":
        called = [{"function": {"name": "raw", "arguments": each}} for each in arguments]
        return [ollama_answer({"tool_calls": called}), ollama_answer({"content": "Ok."})]
    uses = [
        {"start": {"type": "tool_use", "id": f"toolu_{number}", "name": "raw", "input": each}, "deltas": []}
        for number, each in enumerate(arguments)
    ]
    text = {"start": {"type": "text", "text": ""}, "deltas": [{"type": "text_delta", "text": "Ok."}]}
    return [anthropic_message(*uses, stop="tool_use"), anthropic_message(text)]


def settings(provider: str, base_url: str) -> dict[str, str]:
    """The service's settings for a provider of ours."""
    return {
        "STIGMER_LLM_PROVIDER": provider,
        "STIGMER_LLM_MODEL": "tester",
        "STIGMER_LLM_BASE_URL": f"{base_url}/v1" if provider == "openai" else base_url,
        "STIGMER_LLM_API_KEY": "of-the-provider",
    }


@pytest.mark.parametrize("provider", ["openai", "anthropic", "ollama"])
async def test_results_of_all_kinds_are_sent_as_the_provider_takes_them(start: StartService, provider: str) -> None:
    async with serving_provider(*replies(provider, *(result for result, _ in RESULTS.values()))) as served:
        client = await start(**settings(provider, served.base_url))
        events = await client.execute(agent=agent(mcp_servers=[stdio()]))
        request = served.requests[-1]

    assert one(events, "finished").output == "Ok."
    assert not problems(provider, request)
    sent = json.dumps(request["messages"], ensure_ascii=False).replace('\\"', '"')
    assert not [name for name, (_, words) in RESULTS.items() if words not in sent]
    ended = [event.tool_call_finished.outcome for event in events if event.HasField("tool_call_finished")]
    assert ended.count(event_pb2.TOOL_OUTCOME_FAILED) == 1
    assert ended.count(event_pb2.TOOL_OUTCOME_SUCCEEDED) == len(RESULTS) - 1


async def test_images_that_a_model_does_not_take_are_described_and_the_execution_goes_on(start: StartService) -> None:
    first, second = replies("openai", {"content": [PNG]})
    refused = Reply(400, [b'{"error": {"message": "image_url is not supported"}}'])
    async with serving_provider(first, refused, second) as served:
        client = await start(**settings("openai", served.base_url))
        events = await client.execute(agent=agent(mcp_servers=[stdio()]))
        request = served.requests[2]

    assert one(events, "finished").output == "Ok."
    assert [code for code, _ in notices(events)] == ["IMAGES_LEFT_OUT"]
    assert "image_url" not in str(request)
    assert "[image, image/png, 3 bytes]" in str(request)


async def test_parameters_may_have_any_name(start: StartService) -> None:
    arguments = {"config": "a", "run_manager": "b", "self": "c", "callbacks": "d", "arguments": "e"}
    client = await start([turn("", ("echo", arguments)), turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[stdio()]))

    assert json.loads(results(events)[0]) == arguments


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (503, b"busy", "HTTP 503: busy"),
        (429, b'{"error": "slow down"}', "HTTP 429: slow down"),
        (500, b"<html><h1>Oops</h1></html>", "HTTP 500: Oops"),
        (401, b"", "HTTP 401: no reason given"),
        (400, b"x" * 100_000, "HTTP 400: xxx"),
    ],
)
async def test_an_http_server_that_fails_once_fails_that_call_and_lives(
    start: StartService, unused_tcp_port: int, status: int, body: bytes, told: str
) -> None:
    client = await start([turn("", ("add", {"a": 1, "b": 2})), turn("", ("add", {"a": 3, "b": 4})), turn("Ok.")])
    async with failing_once(unused_tcp_port, status, body) as url:
        server = runner_pb2.McpServer(name="web", http=runner_pb2.HttpServer(url=f"{url}/mcp"))
        events = await client.execute(agent=agent(mcp_servers=[server]))

    assert told in results(events)[0]
    assert results(events)[1] == "the sum is 7"
    assert not notices(events)


async def test_a_session_that_the_server_forgot_is_begun_again(start: StartService, unused_tcp_port: int) -> None:
    client = await start([turn("", ("add", {"a": 1, "b": 2})), turn("", ("add", {"a": 3, "b": 4})), turn("Ok.")])
    async with failing_once(unused_tcp_port, 404, b"Session not found") as url:
        server = runner_pb2.McpServer(name="web", http=runner_pb2.HttpServer(url=f"{url}/mcp"))
        events = await client.execute(agent=agent(mcp_servers=[server]))

    assert results(events) == ["the sum is 3", "the sum is 7"]


async def test_an_http_server_that_was_away_is_used_again(
    start: StartService, unused_tcp_port: int, tmp_path: Path
) -> None:
    wait = "touch {0}; until [ -e {0}-done ]; do sleep 0.02; done"
    client = await start(
        [
            turn("", ("add", {"a": 1, "b": 2})),
            turn("", command(wait.format("first"))),
            turn("", ("add", {"a": 1, "b": 2})),
            turn("", command(wait.format("second"))),
            turn("", ("add", {"a": 3, "b": 4})),
            turn("Ok."),
        ]
    )
    root = tmp_path / "workspace"

    async def restart() -> None:
        async with served_over_http(unused_tcp_port, []):
            await appears(root / "first")
        (root / "first-done").touch()
        await appears(root / "second")
        async with served_over_http(unused_tcp_port, []):
            (root / "second-done").touch()
            await ended.wait()

    ended = asyncio.Event()
    restarting = asyncio.create_task(restart())
    await accepts(unused_tcp_port)
    http = runner_pb2.HttpServer(url=f"http://127.0.0.1:{unused_tcp_port}/mcp")
    events = await client.execute(agent=agent(mcp_servers=[runner_pb2.McpServer(name="web", http=http)]))
    ended.set()
    await restarting

    assert results(events)[0] == "the sum is 3"
    assert results(events)[2] == "Error: MCP server web failed: All connection attempts failed"
    assert results(events)[4] == "the sum is 7"


async def appears(path: Path) -> None:
    """Waits for a file."""
    while not path.exists():  # noqa: ASYNC240  # one stat of a local file
        await asyncio.sleep(0.02)


async def accepts(port: int) -> None:
    """Waits for somebody to listen."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


async def test_an_http_server_that_refuses_is_told_with_its_words(start: StartService, unused_tcp_port: int) -> None:
    client = await start([turn("Ok.")])
    async with failing_once(unused_tcp_port, 503, b"") as url:
        server = runner_pb2.McpServer(name="web", http=runner_pb2.HttpServer(url=f"{url}/elsewhere"))
        events = await client.execute(agent=agent(mcp_servers=[server]))

    [(code, text)] = notices(events)
    assert code == "MCP_SERVER_UNAVAILABLE"
    assert "it answered with HTTP 404: Not Found" in text


async def test_an_unknown_version_of_the_protocol_is_told(start: StartService) -> None:
    client = await start([turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[stdio(environment={"MCP_TEST_VERSION": "1789-07-14"})]))

    [(code, text)] = notices(events)
    assert code == "MCP_SERVER_UNAVAILABLE"
    assert "1789-07-14" in text


PATH = {"path": {"type": "string"}}
URL = {"url": {"type": "string"}}
NEEDS_PATH = {"properties": PATH, "required": ["path"]}
NEEDS_URL = {"properties": URL, "required": ["url"]}
NEEDS_BOTH = {"properties": {**PATH, **URL}, "required": ["path", "url"]}
SCHEMAS: list[tuple[dict[str, Any], set[str], list[str]]] = [
    ({"type": "object", "anyOf": [NEEDS_PATH, {"properties": URL}]}, {"path", "url"}, []),
    ({"oneOf": [NEEDS_BOTH, NEEDS_PATH]}, {"path", "url"}, ["path"]),
    ({"type": "object", "allOf": [NEEDS_PATH, NEEDS_URL]}, {"path", "url"}, ["path", "url"]),
    ({"type": "object", "properties": PATH, "anyOf": [{"required": ["path"]}, {"required": ["url"]}]}, {"path"}, []),
    ({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "object", **NEEDS_PATH}}}, {"path"}, ["path"]),
    ({"anyOf": [{"type": "null"}, {"type": "object", "properties": PATH}]}, {"path"}, []),
    ({"type": "object", "properties": PATH, "required": ["path", "gone"]}, {"path"}, ["path"]),
    ({"type": "object", "not": {"required": ["x"]}, "properties": PATH}, {"path"}, []),
    ({"type": "object", "enum": [{}]}, set(), []),
    ({"anyOf": [{"$ref": "#/$defs/nowhere"}, {"$ref": "https://elsewhere"}, 7]}, set(), []),
    ({"type": "object", "properties": {"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}, {"x"}, []),
]


@pytest.mark.parametrize(("schema", "properties", "required"), SCHEMAS)
def test_a_schema_is_an_object_that_every_provider_takes(
    schema: dict[str, Any], properties: set[str], required: list[str]
) -> None:
    flat = object_schema(schema)

    assert not problems("openai", {"messages": [], "tools": [{"function": {"name": "x", "parameters": flat}}]})
    assert set(flat["properties"]) == properties
    assert flat.get("required", []) == required
