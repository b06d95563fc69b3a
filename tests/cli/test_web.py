"""`web`: the page of the local service, and of one that it starts."""

import json
import signal
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import trustme
from tests.cli.command_line import CommandLine, running
from tests.server.test_tls import write_server_files


def post(address: str, path: str, body: object, cookie: str = "") -> tuple[int, str]:
    """Calls the page as a browser would; returns the status and the cookie that was set."""
    headers = {"Origin": f"http://{address}", "Content-Type": "application/json", "Cookie": cookie}
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, (response.headers["Set-Cookie"] or "").partition(";")[0]
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_web_starts_a_service_with_a_page_that_only_its_token_opens(alone: CommandLine) -> None:
    with alone.start("web", "--no-open") as process:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().strip())
        assert url.fragment.startswith("token=")
        with urllib.request.urlopen(f"http://{url.netloc}/", timeout=30) as page:
            assert b"page.js" in page.read()
        assert post(url.netloc, "/about", {})[0] == 401
        status, cookie = post(url.netloc, "/login", {"token": unquote(url.fragment.removeprefix("token="))})
        assert status == 200
        assert post(url.netloc, "/about", {}, cookie)[0] == 200
        assert alone("run", "--id", "seen", "true").returncode == 0, "commands use the same service"
        assert post(url.netloc, "/api/GetExecution", {"execution_id": "seen"}, cookie)[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_web_shows_an_address_with_tls_where_the_service_has_it(alone: CommandLine, tmp_path: Path) -> None:
    authority = trustme.CA()
    variables = {
        "WEB_ADDRESS": "localhost:0",
        "LISTEN_ADDRESS": "localhost:0",
        **write_server_files(tmp_path, authority),
    }
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with running(alone, **variables):
        shown = alone("web", "--no-open").stdout.strip()
        assert shown.startswith("https://localhost:")
        with urllib.request.urlopen(shown, timeout=30, context=context) as page:
            assert b"page.js" in page.read()


@pytest.mark.parametrize(
    ("arguments", "said"), [(("--server", "localhost:1"), "the page of another service is at its WEB_ADDRESS")]
)
def test_web_is_for_the_local_service(alone: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    done = alone("web", "--no-open", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
