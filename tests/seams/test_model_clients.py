"""What the models use of LangChain's provider packages and of the providers' clients."""

import asyncio
import json
from typing import Any

import aiohttp
import anthropic
import httpx
import httpx2
import pytest
from anthropic.resources.messages import messages as anthropic_models
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from openai import DefaultAioHttpClient

from runner_service.models.aiohttp_transport import AiohttpTransport

TOOL = {"name": "t", "description": "d", "parameters": {"type": "object", "properties": {}}}


def openai(http: httpx2.AsyncClient | None = None) -> ChatOpenAI:
    return ChatOpenAI(model="m", api_key="k", base_url="http://provider/v1", max_retries=0, http_async_client=http)  # type: ignore[arg-type]  # a key


def test_langchain_openai_makes_a_request_without_messages_to_which_ours_are_added() -> None:
    request = openai()._get_request_payload([], stop=["end"], tools=[{"type": "function", "function": TOOL}])
    assert request["model"] == "m"
    assert request["stop"] == ["end"]
    assert request["tools"][0]["function"]["name"] == "t"
    assert request["messages"] == []
    json.dumps(request)


async def test_openais_client_tells_where_and_with_which_headers_it_would_post() -> None:
    client = openai().root_async_client
    assert str(client.base_url) == "http://provider/v1/"
    assert client.auth_headers["Authorization"] == "Bearer k"
    assert client.default_headers["Content-Type"] == "application/json"


async def test_openais_adapter_for_aiohttp_reports_a_refused_connection_as_a_timeout_with_its_cause() -> None:
    """If it no longer does, `aiohttp_connections` has nothing left to mend."""
    async with DefaultAioHttpClient() as http:
        with pytest.raises(httpx2.TimeoutException) as failure:
            await http.get("http://127.0.0.1:9/")
    assert isinstance(failure.value.__cause__, aiohttp.ClientConnectionError)


def claude(**fields: Any) -> ChatAnthropic:
    return ChatAnthropic.model_validate({"model": "claude-x", "api_key": "k", "base_url": "http://provider", **fields})


def test_langchain_anthropic_makes_requests_in_anthropics_form() -> None:
    request = claude(max_tokens=5)._get_request_payload(
        [SystemMessage("s"), HumanMessage("hi")], stop=["end"], tools=[{"name": "t", "input_schema": {}}]
    )
    assert request["model"] == "claude-x"
    assert request["max_tokens"] == 5
    assert request["messages"] == [{"role": "user", "content": "hi"}]
    assert request["system"] == "s"
    assert request["stop_sequences"] == ["end"]
    assert request["tools"][0]["name"] == "t"


async def test_langchain_anthropic_has_the_parameters_of_a_client_and_uses_the_one_it_is_given() -> None:
    assert "_async_client" in vars(ChatAnthropic), "SharedChatAnthropic replaces nothing any more"
    model = claude(max_retries=0)
    assert {"api_key", "base_url", "max_retries", "timeout"} <= model._client_params.keys()

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=b"data: x\n\n")

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        client = anthropic.AsyncClient(**model._client_params, http_client=http)
        stream = await client.post(
            "/v1/messages", body={}, cast_to=object, stream=True, stream_cls=anthropic.AsyncStream[object]
        )
        assert await stream.response.aread() == b"data: x\n\n"


def test_anthropics_client_says_when_models_are_retired() -> None:
    days = anthropic_models.DEPRECATED_MODELS
    assert days
    assert all(isinstance(name, str) and isinstance(day, str) for name, day in days.items())


def test_langchain_ollama_makes_options_and_has_a_client_of_httpx() -> None:
    model = ChatOllama(model="m", base_url="http://provider", temperature=0.5, num_predict=7)
    request = model._chat_params([], ["end"], tools=[{"type": "function", "function": TOOL}])
    assert request["model"] == "m"
    assert request["options"]["temperature"] == 0.5
    assert request["options"]["num_predict"] == 7
    assert request["options"]["stop"] == ["end"]
    assert request["tools"][0]["function"]["name"] == "t"
    assert isinstance(model._async_client._client, httpx.AsyncClient)
    assert str(model._async_client._client.base_url).rstrip("/") == "http://provider"


async def test_our_transport_reports_broken_connections_as_httpx_does() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        if path != b"/silent":
            writer.write(b"HTTP/1.1 200 OK\r\nx: 1\r\nx: 2\r\ncontent-length: 10\r\n\r\nhello")
            writer.write(b"there" if path == b"/whole" else b"")
            writer.close()
        else:
            await reader.read()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    timeout = httpx.Timeout(5.0, read=0.2)
    async with server, httpx.AsyncClient(transport=AiohttpTransport(), base_url=f"http://{host}:{port}") as http:
        whole = await http.post("/whole", json={}, timeout=timeout)
        assert (whole.status_code, whole.text, whole.headers.get_list("x")) == (200, "hellothere", ["1", "2"])
        with pytest.raises(httpx.ReadError):
            await http.post("/cut", json={}, timeout=timeout)
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/silent", json={}, timeout=timeout)
        server.close()
        with pytest.raises(httpx.ConnectError):
            await http.post("http://127.0.0.1:9/", json={}, timeout=timeout)
