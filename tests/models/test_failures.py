"""What a failed call means, and what people are told of it, for what providers and networks really do."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import httpx
import httpx2
import pytest
from tests.agent.bench import Bench
from tests.agent.provider import Reply, completion, error, serving_provider

from runner_service.errors import ModelRejectedEnd, ModelRequestEnd, ModelUnavailableEnd
from runner_service.models import ModelChoice
from runner_service.models.endings import Ending, ending_of
from runner_service.models.failures import classify, reported_failure, status_failure
from runner_service.settings import SecretStr

KEY = "sk-test-0123456789"
PROVIDERS = ["openai", "anthropic", "ollama"]


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (422, {"detail": "messages too odd"}, "rejected", "messages too odd"),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "field required"}]}, "rejected", "field required"),
        (400, "plain text", "rejected", "plain text"),
        (400, '{"error": "a text"}', "rejected", "a text"),
        (400, '{"message": "at the top"}', "rejected", "at the top"),
        (400, {"errors": ["one", "two"]}, "rejected", "one; two"),
        (400, '[{"error": {"message": "in a list"}}]', "rejected", "in a list"),
        (502, "<html><head><title>502</title></head><body><h1>Bad&nbsp;Gateway</h1></body></html>", "transient", "Bad"),
        (400, {"message": "Provider returned error", "metadata": {"raw": '{"message": "inner"}'}}, "rejected", "inner"),
        (500, "", "transient", "no reason given"),
        (400, b"\xff\xfe", "rejected", "\ufffd"),
        (400, {"error": {"message": {"text": 1}}}, "rejected", "no reason given"),
        (400, "[" * 100_000, "rejected", "[["),
        (429, {"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}}, "rejected", "paid"),
        (400, {"error": {"message": "Your credit balance is too low"}}, "rejected", "paid"),
        (429, {"error": {"message": "Request too large: tokens per min"}}, "transient", "tokens per min"),
        (413, "too big", "overflow", "too big"),
        (400, "the request exceeds the available context size", "overflow", "(HTTP 400)"),
        (500, {"error": {"type": "exceed_context_size_error", "message": "too many"}}, "overflow", "too many"),
        (
            400,
            "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
            "overflow",
            "4000",
        ),
        (400, "Please reduce the length of the messages or completion.", "overflow", "reduce"),
        (422, "`inputs` tokens + `max_new_tokens` must be <= 4096.", "overflow", "4096"),
        (400, "input length and `max_tokens` exceed context limit: 200000", "overflow", "200000"),
        (529, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, "transient", "Overloaded"),
        (408, "slow", "transient", "slow"),
        (404, {"error": "model 'x' not found, try pulling it first"}, "rejected", "pulling"),
    ],
)
def test_an_error_response_is_told_in_the_providers_words(status: int, body: object, kind: str, words: str) -> None:
    failure = status_failure(status, body, {})
    assert failure.kind == kind
    assert words in failure.text
    assert f"HTTP {status}" in failure.text
    assert "\n" not in failure.text
    assert len(failure.text) < 700


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"type": "server_error"}}, "transient"),
        ({"error": {"code": 429, "message": "slow"}}, "transient"),
        ({"error": {"code": "rate_limit_exceeded"}}, "transient"),
        ({"error": {"type": "invalid_request_error"}}, "rejected"),
        ({"error": {"code": 401}}, "rejected"),
        ({"error": {"type": "insufficient_quota"}}, "rejected"),
        ({"error": {"status": "UNAVAILABLE", "code": 503}}, "transient"),
        ({"error": {"type": "not_found_error"}}, "rejected"),
        ({"error": {}}, "transient"),
        ({"error": True}, "transient"),
    ],
)
def test_an_error_in_a_stream_is_judged_by_its_type_or_code(body: object, kind: str) -> None:
    assert reported_failure(body).kind == kind


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Wed, 01 Jan 2020 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, 0.0),
        ({}, None),
    ],
)
def test_the_wait_that_a_provider_asks_for_is_read(headers: Mapping[str, str], seconds: float | None) -> None:
    assert status_failure(429, "slow", headers).retry_after == seconds


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


REQUEST = httpx2.Request("POST", "http://user:pass@models.internal:8080/v1/chat/completions")


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
        (ConnectionResetError(104, "reset"), "connection reset by peer"),
        (socket.gaierror(-2, "Name or service not known"), "cannot be resolved (Name or service not known)"),
        (OSError(101, "Network is unreachable"), "network is unreachable"),
        (OSError(113, "No route to host"), "no route to host"),
        (ssl.SSLCertVerificationError("no"), "its certificate is not accepted"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "TLS failed"),
        (httpx2.ProxyError("407 Proxy Authentication Required"), "by way of the proxy, 407"),
        (httpx2.RemoteProtocolError("peer closed connection"), "peer closed connection"),
    ],
)
def test_a_broken_connection_is_told_with_host_port_and_reason(cause: Exception, words: str) -> None:
    failure = classify(_caused(httpx2.ConnectError("all attempts failed", request=REQUEST), cause))
    assert failure
    assert failure.kind == "transient"
    assert failure.text.startswith("the connection to models.internal:8080 failed: ")
    assert words in failure.text
    assert "pass" not in failure.text


def test_silence_is_told_with_the_host() -> None:
    failure = classify(httpx2.ReadTimeout("", request=REQUEST))
    assert failure
    assert failure.text == "models.internal:8080 did not answer in time"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        TypeError("x"),
        UnicodeEncodeError("ascii", "“", 0, 1, "ordinal not in range"),
        httpx2.LocalProtocolError("Illegal header value"),
        httpx.UnsupportedProtocol("Request URL is missing an 'http://' or 'https://' protocol."),
        FileNotFoundError(2, "certificate"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_failed_on_our_side_is_not_the_providers(error: Exception) -> None:
    assert classify(error) is None
    assert classify(_caused(RuntimeError("Connection error."), error)) is None


def choice(provider: str, base_url: str, key: str = KEY) -> ModelChoice:
    path = "/v1" if provider == "openai" else ""
    return ModelChoice(provider, "m", f"{base_url}{path}", SecretStr(key), None, 99)  # type: ignore[arg-type]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_closed_port_is_told_by_address(bench: Bench, provider: str, unused_tcp_port: int) -> None:
    played = await bench.run(choice(provider, f"http://127.0.0.1:{unused_tcp_port}"))
    assert isinstance(played.end, ModelUnavailableEnd)
    assert f"the connection to 127.0.0.1:{unused_tcp_port} failed: connection refused" in played.end.message


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_unknown_host_is_told_by_name(bench: Bench, provider: str) -> None:
    played = await bench.run(choice(provider, "http://no-such-host.invalid:81"))
    assert isinstance(played.end, ModelUnavailableEnd)
    assert "the connection to no-such-host.invalid:81 failed: " in played.end.message
    assert "cannot be resolved" in played.end.message


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_server_without_tls_is_told(bench: Bench, provider: str) -> None:
    async def answer_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer_plainly, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        played = await bench.run(choice(provider, f"https://127.0.0.1:{port}"))
    assert isinstance(played.end, ModelUnavailableEnd)
    assert f"the connection to 127.0.0.1:{port} failed: TLS failed" in played.end.message


async def test_a_key_that_no_header_can_carry_is_our_error_once_and_not_shown(bench: Bench) -> None:
    async with serving_provider() as served:
        played = await bench.run(choice("openai", served.base_url, "“sk-secret”"))
    assert isinstance(played.end, ModelRequestEnd)
    assert "UnicodeEncodeError" in played.end.message
    assert "sk-secret" not in played.end.message
    assert not served.requests
    assert not played.all("notice")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "body", "end"),
    [
        (422, b'{"detail": "too odd"}', ModelRejectedEnd),
        (400, b"too odd", ModelRejectedEnd),
        (401, b'{"error": {"message": "too odd"}}', ModelRejectedEnd),
        (429, b'{"error": {"type": "insufficient_quota", "message": "too odd"}}', ModelRejectedEnd),
        (403, b"<html><body>too <b>odd</b></body></html>", ModelRejectedEnd),
    ],
)
async def test_the_providers_words_reach_the_caller(
    bench: Bench, provider: str, status: int, body: bytes, end: type[Exception]
) -> None:
    async with serving_provider(Reply(status, [body], {"content-type": "text/plain"})) as served:
        played = await bench.run(choice(provider, served.base_url))
    assert isinstance(played.end, end)
    assert "too" in played.end.message
    assert "odd" in played.end.message
    assert len(served.requests) == 1


async def test_a_provider_that_asks_for_no_wait_gets_the_usual_one(bench: Bench) -> None:
    slow = error(429, "slow", **{"retry-after": "0"})
    async with serving_provider(slow, slow, completion({"content": "Ok."})) as served:
        played = await bench.run(choice("openai", served.base_url))
    assert played.answer == "Ok."
    assert "trying again in 0.0 s" in played.all("notice")[0].text  # of the bench's hundredth of a second


@pytest.mark.parametrize(
    ("reason", "text", "calls", "ending"),
    [
        ("stop", True, False, Ending.ANSWERED),
        ("stop", False, True, Ending.CALLS_TOOLS),
        ("stop", False, False, Ending.FAILED),
        ("TOOL-CALLS", True, False, Ending.FAILED),
        ("tool_use", False, True, Ending.CALLS_TOOLS),
        ("length", False, False, Ending.EXHAUSTED),
        ("MAX_TOKENS", True, False, Ending.CUT_SHORT),
        ("length", False, True, Ending.CUT_SHORT),
        ("content_filter", True, True, Ending.REFUSED),
        ("RECITATION", False, False, Ending.REFUSED),
        ("error", True, True, Ending.FAILED),
        ("model_context_window_exceeded", True, False, Ending.OVERFLOWED),
        ("", True, False, Ending.ANSWERED),
        ("quite_new", True, False, Ending.ANSWERED),
        ("pause_turn", True, False, Ending.FAILED),
    ],
)
def test_each_end_of_an_answer_has_one_meaning(reason: str, *, text: bool, calls: bool, ending: Ending) -> None:
    assert ending_of(reason, has_text=text, has_calls=calls) is ending


@pytest.mark.parametrize(
    ("finish", "deltas", "end", "words"),
    [
        ("error", [{"content": "Hi."}], ModelUnavailableEnd, "gave no answer (error)"),
        ("stop", [], ModelUnavailableEnd, "gave no answer (stop)"),
        ("stop", [{"reasoning_content": "Hm."}], ModelUnavailableEnd, "gave no answer (stop)"),
        ("tool_calls", [{"content": "Let me."}], ModelUnavailableEnd, "gave no answer (tool_calls)"),
        ("length", [{"reasoning_content": "Hm."}], ModelRejectedEnd, "output limit"),
        ("content_filter", [{"content": "I may"}], ModelRejectedEnd, "refused to answer (content_filter): I may"),
    ],
)
async def test_an_end_that_is_no_success_fails_with_its_reason(
    bench: Bench, finish: str, deltas: list[dict[str, Any]], end: type[Exception], words: str
) -> None:
    replies = [completion(*deltas, finish=finish) for _ in range(4)]
    async with serving_provider(*replies) as served:
        played = await bench.run(choice("openai", served.base_url))
    assert isinstance(played.end, end)
    assert words in played.end.message
    assert len(served.requests) == (4 if end is ModelUnavailableEnd else 1)


async def test_a_full_context_is_summarised_and_the_call_made_again(bench: Bench) -> None:
    full = [completion({"content": "I w"}, finish="model_context_window_exceeded")]
    async with serving_provider(*full * 4) as served:
        played = await bench.run(choice("openai", served.base_url))
    assert isinstance(played.end, ModelRejectedEnd)  # there is nothing to summarise in one message
    assert "context" in played.end.message
    assert [each.message_id for each in played.all("message_discarded")]
