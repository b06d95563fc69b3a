"""What `check` finds out about a machine, its neighbours and the model's provider."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from tests.ports import free_port
from tests.stigmer.fake_daemon import FakeDaemon, served

from runner_service.check import Check, run_checks
from runner_service.settings import load_settings

KEY = "sk-0123456789"


async def checks_of(tmp_path: Path, **environ: str) -> dict[str, Check]:
    local = {
        "MODE": "local",
        "LISTEN_ADDRESS": "localhost:0",
        "STATE_DIR": str(tmp_path / "state"),
        "SANDBOX_ROOT_DIR": str(tmp_path / "root"),
        "STIGMER_LLM_PROVIDER": "scripted",
    }
    checks = await run_checks(load_settings(local | environ))
    assert not [check for check in checks if KEY in str(check)]
    assert not [check for check in checks if check.status == "fail" and not check.next_step]
    return {check.name: check for check in checks}


class Provider(HTTPServer):
    """A provider of models: answers every GET with `status` and `answer`, and remembers what it was asked."""

    def __init__(self, answer: Any, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.status = answer, status
        self.posted: Any = {}
        self.posted_status = 200
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        body = json.dumps(self.server.answer).encode()
        self.send_response(self.server.status)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(self.server.posted).encode()
        self.send_response(self.server.posted_status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _provider(answer: Any, status: int = 200) -> Iterator[Provider]:
    with Provider(answer, status) as provider:
        thread = threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield provider
        finally:
            provider.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def provider() -> Callable[..., Any]:
    return _provider


async def test_a_machine_in_order_has_nothing_to_fail_and_stays_as_it_was(tmp_path: Path) -> None:
    checks = await checks_of(tmp_path)
    assert {name for name, check in checks.items() if check.status == "fail"} == set()
    assert {
        "LISTEN_ADDRESS",
        "STATE_DIR",
        "SANDBOX_ROOT_DIR",
        "bash",
        "git",
        "rg",
        "SANDBOX_CONFINEMENT",
        "STIGMER_LLM_PROVIDER",
    } == set(checks)
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  # nothing else runs


async def test_a_taken_address_and_a_place_that_is_no_directory_are_found(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        checks = await checks_of(tmp_path, LISTEN_ADDRESS=f"localhost:{holder.getsockname()[1]}")
    assert "is taken" in checks["LISTEN_ADDRESS"].text
    assert checks["LISTEN_ADDRESS"].status == checks["STATE_DIR"].status == "fail"


async def test_a_program_that_is_missing_is_a_warning_with_its_consequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = await checks_of(tmp_path)
    assert {checks[name].status for name in ("bash", "git", "rg")} == {"warn"}
    assert checks["rg"].next_step


async def test_neighbours_are_tried_at_their_address(tmp_path: Path) -> None:
    checks = await checks_of(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert checks["OTEL_EXPORTER_OTLP_ENDPOINT"].status == "fail"
    assert "cannot be reached" in checks["OTEL_EXPORTER_OTLP_ENDPOINT"].text


async def test_a_daemon_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    checks = await checks_of(tmp_path, STIGMER_BACKEND_ENDPOINT=f"127.0.0.1:{free_port()}")

    assert checks["STIGMER_BACKEND_ENDPOINT"].status == "warn"
    assert "Connection refused" in checks["STIGMER_BACKEND_ENDPOINT"].text


async def test_a_daemon_that_answers_is_well_and_one_that_refuses_the_key_is_not(tmp_path: Path) -> None:
    async with served(FakeDaemon()) as daemon:
        checks = await checks_of(tmp_path, STIGMER_BACKEND_ENDPOINT=daemon.address, STIGMER_API_KEY=KEY)
        assert checks["STIGMER_BACKEND_ENDPOINT"].status == "ok"
        assert daemon.keys == {f"Bearer {KEY}"}
        daemon.failures["execution"] = grpc.StatusCode.UNIMPLEMENTED
        checks = await checks_of(tmp_path, STIGMER_BACKEND_ENDPOINT=daemon.address, STIGMER_API_KEY=KEY)
        assert checks["STIGMER_BACKEND_ENDPOINT"].status == "fail"
        assert "another version of the API" in checks["STIGMER_BACKEND_ENDPOINT"].text
        daemon.failures["execution"] = grpc.StatusCode.UNAUTHENTICATED
        checks = await checks_of(tmp_path, STIGMER_BACKEND_ENDPOINT=daemon.address, STIGMER_API_KEY=KEY)

    assert checks["STIGMER_API_KEY"].status == "fail"
    assert KEY not in checks["STIGMER_API_KEY"].text


async def test_certificate_files_are_loaded(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(str(cert))
    certificate.private_key_pem.write_to_path(str(key))
    environ = {"TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key)}
    assert (await checks_of(tmp_path, **environ))["TLS_CERT_FILE"].status == "ok"
    key.write_text("nothing")
    assert (await checks_of(tmp_path, **environ))["TLS_CERT_FILE"].status == "fail"


OPENAI_LIST = {"object": "list", "data": [{"id": "gpt-x"}, {"id": "gpt-x-mini"}]}
ANTHROPIC_LIST = {"data": [{"id": "claude-sonnet-4-5-20250929"}]}
OLLAMA_LIST = {"models": [{"name": "qwen2.5-coder:7b"}, {"name": "llama:latest"}]}


@pytest.mark.parametrize(
    ("name", "model", "listed", "asked"),
    [
        ("openai", "gpt-x", OPENAI_LIST, ("/v1/models", "authorization", f"Bearer {KEY}")),
        ("anthropic", "claude-sonnet-4.5", ANTHROPIC_LIST, ("/v1/v1/models?limit=1000", "x-api-key", KEY)),
        ("ollama", "llama", OLLAMA_LIST, ("/v1/api/tags", "host", "")),
    ],
)
async def test_a_provider_that_has_the_model_is_in_order_and_was_asked_once(
    provider: Any, tmp_path: Path, name: str, model: str, listed: Any, asked: tuple[str, str, str]
) -> None:
    environ = {"STIGMER_LLM_PROVIDER": name, "STIGMER_LLM_MODEL": model, "STIGMER_LLM_API_KEY": KEY}
    with provider(listed) as server:
        checks = await checks_of(tmp_path, **environ, STIGMER_LLM_BASE_URL=f"{server.url}/v1")
    assert checks["STIGMER_LLM_PROVIDER"].status == "ok"
    ((path, headers),) = server.asked
    assert path == asked[0]
    assert headers[asked[1]].startswith(asked[2])


async def test_a_model_that_was_not_pulled_says_how_to(provider: Any, tmp_path: Path) -> None:
    with provider(OLLAMA_LIST) as server:
        checks = await checks_of(
            tmp_path, STIGMER_LLM_PROVIDER="ollama", STIGMER_LLM_MODEL="absent:1b", OLLAMA_BASE_URL=server.url
        )
    assert checks["STIGMER_LLM_MODEL"].status == "warn"
    assert checks["STIGMER_LLM_MODEL"].next_step == "ollama pull absent:1b"


@pytest.mark.parametrize(
    ("status", "answer", "name", "outcome"),
    [
        (401, {}, "STIGMER_LLM_API_KEY", "fail"),
        (404, {}, "STIGMER_LLM_BASE_URL", "warn"),
        (302, {}, "STIGMER_LLM_BASE_URL", "warn"),
        (200, "text", "STIGMER_LLM_BASE_URL", "fail"),
    ],
)
async def test_a_provider_that_answers_otherwise_is_judged_by_how(
    provider: Any, tmp_path: Path, status: int, answer: Any, name: str, outcome: str
) -> None:
    environ = {"STIGMER_LLM_PROVIDER": "openai", "STIGMER_LLM_MODEL": "gpt-x", "STIGMER_LLM_API_KEY": KEY}
    with provider(answer, status) as server:
        checks = await checks_of(tmp_path, **environ, STIGMER_LLM_BASE_URL=server.url)
    assert checks[name].status == outcome
    assert len(server.asked) == 1, "a redirect would take the key elsewhere"


async def test_a_provider_that_is_not_there_says_so(tmp_path: Path) -> None:
    checks = await checks_of(tmp_path, STIGMER_LLM_PROVIDER="ollama", OLLAMA_BASE_URL=f"http://127.0.0.1:{free_port()}")
    assert checks["STIGMER_LLM_BASE_URL"].status == "fail"
    assert "Connection refused" in checks["STIGMER_LLM_BASE_URL"].text
    assert checks["STIGMER_LLM_BASE_URL"].next_step == "start it"


CALL = {"function": {"name": "report_ready", "arguments": {"ready": True}}}
AS_TEXT = '{"name": "report_ready", "arguments": {"ready": true}}'


MODELS: dict[str, tuple[str, Any]] = {
    "ollama": ("llama", OLLAMA_LIST),
    "openai": ("gpt-x", OPENAI_LIST),
    "anthropic": ("claude-sonnet-4.5", ANTHROPIC_LIST),
}


@pytest.mark.parametrize(
    ("name", "status", "answer", "outcome", "text"),
    [
        ("ollama", 200, {"message": {"tool_calls": [CALL]}}, "ok", "calls tools"),
        ("ollama", 200, {"message": {"content": AS_TEXT}}, "fail", "as text"),
        ("ollama", 400, {"error": "llama does not support tools"}, "fail", "does not support"),
        ("openai", 200, {"choices": [{"message": {"tool_calls": [CALL]}}]}, "ok", "calls tools"),
        ("openai", 200, {"choices": [{"message": {"content": "No."}}]}, "warn", "did not call"),
        (
            "anthropic",
            200,
            {"content": [{"type": "text", "text": "Yes."}, {"type": "tool_use", "name": "report_ready"}]},
            "ok",
            "calls tools",
        ),
        ("openai", 500, {"error": "oops"}, "warn", "HTTP 500"),
        ("openai", 200, ["nonsense"], "warn", "not known"),
    ],
)
async def test_a_model_is_asked_to_call_a_tool(
    provider: Any, tmp_path: Path, name: str, status: int, answer: Any, outcome: str, text: str
) -> None:
    model, listed = MODELS[name]
    environ = {"STIGMER_LLM_PROVIDER": name, "STIGMER_LLM_MODEL": model, "STIGMER_LLM_API_KEY": KEY}
    with provider(listed) as server:
        server.posted, server.posted_status = answer, status
        checks = await checks_of(tmp_path, **environ, STIGMER_LLM_BASE_URL=server.url)
    assert checks["STIGMER_LLM_MODEL"].status == outcome
    assert text in checks["STIGMER_LLM_MODEL"].text
