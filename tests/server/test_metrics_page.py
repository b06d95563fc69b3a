"""The page that Prometheus reads: there when it should be, and nobody's way to hold anything up."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from tests.server.test_tls import write_server_files

from runner_service.addresses import TcpAddress
from runner_service.api.auth import Authentication, TokenSource
from runner_service.api.callers.sources import Callers
from runner_service.server import BindError, http_tls, serve_metrics
from runner_service.settings import SettingsError, load_settings


@asynccontextmanager
async def page_of(text: str, token: TokenSource | None = None) -> AsyncIterator[TcpAddress]:
    async with serve_metrics(TcpAddress("127.0.0.1", 0), text.encode, Callers(Authentication(token))) as address:
        yield address


async def ask(address: TcpAddress, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_with_a_token_the_page_needs_it() -> None:
    async with page_of("numbers", lambda: b"0123456789abcdef") as address:
        for token, answer in {
            "0123456789abcdef": b"200 OK",
            "wrong": b"401 Unauthorized",
            "": b"401 Unauthorized",
        }.items():
            field = f"authorization: Bearer {token}\r\n" if token else ""
            found = await ask(address, f"GET /metrics HTTP/1.1\r\nHost: a\r\n{field}\r\n".encode())
            assert found.startswith(b"HTTP/1.1 " + answer)
            assert (b"numbers" in found) is (answer == b"200 OK")


async def test_the_page_has_the_tls_and_the_client_certificates_of_the_service(tmp_path: Path) -> None:
    authority, callers = trustme.CA(), trustme.CA()
    callers.cert_pem.write_to_path(str(tmp_path / "callers.pem"))
    environ = write_server_files(tmp_path, authority) | {"TLS_CLIENT_CA_FILE": str(tmp_path / "callers.pem")}
    tls = http_tls(load_settings({"MODE": "local", **environ}))
    known, stranger = callers.issue_cert("c@example.com"), trustme.CA().issue_cert("c@example.com")

    async def status(port: int, own: trustme.LeafCert | None) -> bytes:
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        if own:
            own.configure_cert(trust)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="localhost")
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            line = await reader.readline()
            writer.close()
        except OSError:  # an ssl.SSLError is one
            return b""
        return line.strip()

    async with serve_metrics(
        TcpAddress("127.0.0.1", 0), lambda: b"numbers", Callers(Authentication(None)), tls
    ) as address:
        assert await status(address.port, known) == b"HTTP/1.1 200 OK"
        assert await status(address.port, stranger) == b""
        assert await status(address.port, None) == b""
        assert b"numbers" not in await ask(address, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")

        authority = trustme.CA()
        write_server_files(tmp_path, authority)
        async with asyncio.timeout(60):  # a connection notices the new files
            while await status(address.port, known) != b"HTTP/1.1 200 OK":
                old = ssl.create_default_context()
                old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
                known.configure_cert(old)
                reader, writer = await asyncio.open_connection("127.0.0.1", address.port, ssl=old)
                writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
                await reader.read()
                writer.close()


@pytest.mark.parametrize(
    ("setting", "value"), [("AUTH_TOKEN", "0123456789abcdef"), ("TLS_CLIENT_CA_FILE", ""), ("", "")]
)
def test_a_page_beyond_loopback_needs_a_token_or_client_certificates(tmp_path: Path, setting: str, value: str) -> None:
    environ = {"MODE": "local", "METRICS_ADDRESS": "0.0.0.0:9464", **write_server_files(tmp_path, trustme.CA())}
    if setting:
        load_settings(environ | {setting: value or environ["TLS_CERT_FILE"]})
        return
    with pytest.raises(SettingsError, match=r"METRICS_ADDRESS: 0\.0\.0\.0:9464 can be reached from elsewhere"):
        load_settings(environ)


@pytest.mark.parametrize(
    ("request_line", "answer"),
    [
        (b"GET /metrics HTTP/1.1", b"HTTP/1.1 200 OK"),
        (b"GET /metrics?name=x HTTP/1.1", b"HTTP/1.1 200 OK"),
        (b"HEAD /metrics HTTP/1.1", b"HTTP/1.1 200 OK"),
        (b"POST /metrics HTTP/1.1", b"HTTP/1.1 405 Method Not Allowed"),
        (b"GET / HTTP/1.1", b"HTTP/1.1 404 Not Found"),
        (b"nonsense", b"HTTP/1.1 404 Not Found"),
    ],
)
async def test_the_page_is_where_it_should_be_and_nothing_else_is(request_line: bytes, answer: bytes) -> None:
    async with page_of("everything 1\n") as address:
        got = await ask(address, request_line + b"\r\nHost: x\r\n\r\n")
    assert got.splitlines()[0] == answer
    assert (b"everything 1" in got) is (request_line.startswith(b"GET /metrics"))


async def test_who_asks_for_too_much_or_too_slowly_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner_service.server.metrics_http._REQUEST_TIMEOUT_SECONDS", 0.2)
    async with page_of("everything 1\n") as address:
        with contextlib.suppress(ConnectionError):  # as the kernel likes, since bytes were left unread
            assert await ask(address, b"GET /metrics " + b"x" * 100_000) == b""
        assert await ask(address, b"GET /metr") == b""
        idle = [await asyncio.open_connection(*address) for _ in range(20)]
        answers = [await reader.read() for reader, _ in idle]
        assert set(answers) == {b""}
        for _, writer in idle:
            writer.close()
        monkeypatch.setattr("runner_service.server.metrics_http._REQUEST_TIMEOUT_SECONDS", 30.0)
        assert b"everything" in await ask(address, b"GET /metrics HTTP/1.1\r\n\r\n")


async def test_leaving_does_not_wait_for_who_is_connected() -> None:
    async with asyncio.timeout(8):
        async with page_of("everything 1\n") as address:
            reader, writer = await asyncio.open_connection(*address)
            await asyncio.sleep(0.05)
        assert await reader.read() == b""
    writer.close()


async def test_an_address_that_is_taken_is_told() -> None:
    async with page_of("") as address:
        with pytest.raises(BindError, match=f"METRICS_ADDRESS {address}"):
            async with serve_metrics(address, lambda: b"", Callers(Authentication(None))):
                pass
