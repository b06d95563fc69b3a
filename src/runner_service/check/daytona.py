"""Checks that Daytona answers and accepts the key."""

import asyncio
import importlib.util
import json
import re
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from importlib.metadata import version

from runner_service.check.network import TIMEOUT_SECONDS
from runner_service.check.result import Check
from runner_service.settings import Settings

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
_LAST_SDK_OF_EARLIER_SERVERS = (0, 200, 0)
_FIRST_SERVER_OF_LATER_SDKS = (0, 200, 0)
_REFUSAL_STATUSES = frozenset({401, 403})


async def daytona_check(settings: Settings) -> Check:
    """Lists one sandbox, creating none, and compares the versions of SDK and server."""
    if importlib.util.find_spec("daytona") is None:
        next_step = "install the extra `cloud`: pip install 'runner-service[cloud] @ file:///path/to/the.whl'"
        return Check("MODE", "fail", "cloud mode needs packages that are not installed", next_step)
    url = settings.daytona_api_url
    key = settings.daytona_api_key.get_secret_value() if settings.daytona_api_key else ""
    try:
        await asyncio.to_thread(_ask, url, key)
    except urllib.error.HTTPError as error:
        error.close()
        return _result(url, error.code)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        next_step = "see whether the network and DAYTONA_API_URL are right"
        return Check("DAYTONA_API_URL", "fail", f"Daytona at {url} does not answer: {reason}", next_step)
    server, sdk = await asyncio.to_thread(_server_version, url), version("daytona")
    if _numbers(server) < _FIRST_SERVER_OF_LATER_SDKS and _numbers(sdk) > _LAST_SDK_OF_EARLIER_SERVERS:
        text = f"Daytona at {url} is version {server}, whose answers the installed SDK {sdk} cannot read"
        return Check("DAYTONA_API_URL", "fail", text, "pip install daytona==0.200.0, or upgrade the server")
    return Check("DAYTONA_API_KEY", "ok", f"Daytona at {url} takes the key")


def _result(url: str, code: int) -> Check:
    if code in _REFUSAL_STATUSES:
        text = f"Daytona at {url} refuses the key: HTTP {code}"
        return Check("DAYTONA_API_KEY", "fail", text, "set a key that is valid, and may use sandboxes")
    text = f"Daytona at {url} answers, but its sandboxes cannot be listed: HTTP {code}"
    return Check(
        "DAYTONA_API_URL", "warn", text, "try again later, or see whether the path in DAYTONA_API_URL is right"
    )


def _server_version(url: str) -> str:
    """Returns the version that the server says it has, for which no key is needed; empty if it says none."""
    try:
        with urllib.request.build_opener(_NoRedirects).open(f"{url}/config", timeout=TIMEOUT_SECONDS) as answer:
            about = json.load(answer)
    except (OSError, HTTPException, ValueError):
        return ""
    return str(about.get("version", "")) if isinstance(about, dict) else ""


def _numbers(text: str) -> tuple[int, ...]:
    """Returns a version for comparison; what is none is the latest."""
    found = _VERSION.match(text)
    return tuple(map(int, found.groups())) if found else (sys.maxsize,)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as it is: followed, it would take the key along to another host."""

    def redirect_request(self, *_: object) -> None:
        return None


def _ask(url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
    request = urllib.request.Request(f"{url}/sandbox?limit=1", headers=headers)  # noqa: S310  # settings take http(s) only
    urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_SECONDS).close()
