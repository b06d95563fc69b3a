"""What reaches the network from a cell under the level `proxy`: allowed hosts, through the proxy, and nothing else."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.executors.conftest import opened_locally
from tests.executors.recorder import output, run

from runner_service.allowed_hosts import parse_hosts
from runner_service.executors.confinement import Confinement
from runner_service.executors.egress.policy import EgressPolicy
from runner_service.executors.protocol import Sandbox, SandboxSpec

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None or shutil.which("curl") is None, reason="bubblewrap or curl is not installed"
)


class Upstream:
    """An HTTP server on this machine's loopback, which keeps what it was sent."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0

    @asynccontextmanager
    async def served(self) -> AsyncIterator["Upstream"]:
        async with await asyncio.start_server(self._answer, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n")
            await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


class Place:
    def __init__(self, sandbox: Sandbox, upstream: Upstream) -> None:
        self.sandbox = sandbox
        self.upstream = upstream
        self.denied: list[tuple[str, int]] = []

    async def curl(self, arguments: str) -> str:
        return await output(self.sandbox, f"curl -s --noproxy '' --max-time 20 {arguments} || echo failed $?")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with Upstream().served() as upstream, opened_locally(tmp_path) as executor:
        hosts = parse_hosts([f"127.0.0.1:{upstream.port}", "localhost"])
        denied: list[tuple[str, int]] = []
        policy = EgressPolicy(hosts, lambda host, port, _: denied.append((host, port)))
        level = Confinement(files="workspace", network="proxy", allowed_hosts=hosts)
        async with executor.open(SandboxSpec("e", confinement=level, egress=policy)) as sandbox:
            found = Place(sandbox, upstream)
            found.denied = denied
            yield found


async def test_an_allowed_address_is_reached_by_http_and_by_connect(place: Place) -> None:
    url = f"http://127.0.0.1:{place.upstream.port}/path?x=1"
    assert await place.curl(url) == "hello\n"
    assert await place.curl(f"--proxytunnel {url}") == "hello\n"
    assert place.upstream.heads[0].startswith(b"GET /path?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Proxy-" not in place.upstream.heads[0]
    assert place.denied == []


async def test_another_host_is_refused_in_words_and_told_once(place: Place) -> None:
    for _ in range(2):
        assert "not among the allowed hosts" in await place.curl("http://example.com/")
    assert "failed" in await place.curl("https://example.com/")
    assert place.denied == [("example.com", 80)]


async def test_a_name_of_the_loopback_is_refused_although_it_is_allowed(place: Place) -> None:
    assert "private address" in await place.curl("http://localhost/")


async def test_the_host_header_cannot_name_another_host(place: Place) -> None:
    await place.curl(f"-H 'Host: other.example' http://127.0.0.1:{place.upstream.port}/")
    assert b"other.example" not in place.upstream.heads[0]


async def test_nothing_but_the_proxy_can_be_reached(place: Place) -> None:
    direct = f"(exec 3<>/dev/tcp/127.0.0.1/{place.upstream.port}) 2>/dev/null && echo reached || echo closed"
    assert await output(place.sandbox, direct) == "closed\n"
    lookup = "python3 -c 'import socket; socket.getaddrinfo(\"example.com\", 80)' 2>&1 | tail -1"
    assert "Error" in await output(place.sandbox, lookup) or "gaierror" in await output(place.sandbox, lookup)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET / HTTP/1.1", "400"),
        ("GET ftp://example.com/ HTTP/1.1", "400"),
        ("nonsense", "400"),
        ("PRI * HTTP/2.0", "400"),
        ("GET http://localhost:1/ HTTP/1.1\\nHost: example.com", "400"),
        ("GET http://localhost:1/ HTTP/1.1\\r\\nA: b\\nHost: example.com", "400"),
        ("CONNECT LOCALHOST.:80 HTTP/1.1", "403"),
        ("CONNECT 127.0.0.1:25 HTTP/1.1", "403"),
        ("CONNECT [::ffff:127.0.0.1]:80 HTTP/1.1", "403"),
        ("CONNECT example.com:99999 HTTP/1.1", "400"),
        ("CONNECT 169.254.169.254:80 HTTP/1.1", "403"),
        ("CONNECT [::1]:443 HTTP/1.1", "403"),
        ("GET http://127.0.0.1@example.com/ HTTP/1.1", "403"),
    ],
)
async def test_a_request_that_is_not_for_an_allowed_host_gets_an_answer(
    place: Place, request_line: str, status: str
) -> None:
    port = "${HTTP_PROXY##*:}"
    talk = f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{request_line}\\r\\n\\r\\n' >&3; head -1 <&3"
    assert f" {status} " in await output(place.sandbox, talk)


async def test_a_head_that_is_too_large_is_refused(place: Place) -> None:
    text = "curl -s --noproxy '' -o /dev/null -w '%{http_code}' -H \"X: $(head -c 100000 /dev/zero | tr '\\0' x)\" http://example.com/"
    _, stdout, _ = await run(place.sandbox, text)
    assert stdout in {b"431", b"000"}
