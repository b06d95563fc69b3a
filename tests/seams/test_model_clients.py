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


def test_langchain_anthropic_makes_a_request_without_messages_to_which_ours_are_added() -> None:
    request = claude(max_tokens=5)._get_request_payload(
        [], stop=["end"], tools=[{"name": "t", "input_schema": {}}], cache_control={"type": "ephemeral"}
    )
    assert request["model"] == "claude-x"
    assert request["max_tokens"] == 5
    assert request["stop_sequences"] == ["end"]
    assert request["tools"][0]["name"] == "t"
    assert request["cache_control"] == {"type": "ephemeral"}
    assert request["messages"] == []
    assert "system" not in request
    json.dumps(request)


async def test_anthropics_client_tells_where_and_with_which_headers_it_would_post() -> None:
    async with httpx2.AsyncClient() as http:
        client = anthropic.AsyncAnthropic(**claude(max_retries=0)._client_params, http_client=http)
    assert str(client.base_url).rstrip("/") == "http://provider"
    assert any("k" in value for value in client.auth_headers.values())
    assert client.default_headers["anthropic-version"]
    assert client.default_headers["Content-Type"] == "application/json"


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
    async with server, httpx.AsyncClient(transport=AiohttpTransport(), base_url=f"http://{host}:{port}") as http:
        http.timeout = httpx.Timeout(60.0)
        whole = await http.post("/whole", json={})
        assert (whole.status_code, whole.text, whole.headers.get_list("x")) == (200, "hellothere", ["1", "2"])
        with pytest.raises(httpx.ReadError):
            await http.post("/cut", json={})
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/silent", json={}, timeout=httpx.Timeout(60.0, read=0.2))
        server.close()
        with pytest.raises(httpx.ConnectError):
            await http.post("http://127.0.0.1:9/", json={})
