"""Checks that Daytona answers and accepts the key."""

import asyncio
import importlib.util
import urllib.error
import urllib.request
from http.client import HTTPException

from runner_service.check.network import TIMEOUT_SECONDS
from runner_service.check.result import Check
from runner_service.settings import Settings

_REFUSAL_STATUSES = frozenset({401, 403})


async def daytona_check(settings: Settings) -> Check:
    """Lists one sandbox; creates none."""
    if importlib.util.find_spec("daytona") is None:
        next_step = "pip install 'runner-service[cloud]'"
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
    return Check("DAYTONA_API_KEY", "ok", f"Daytona at {url} takes the key")


def _result(url: str, code: int) -> Check:
    if code in _REFUSAL_STATUSES:
        text = f"Daytona at {url} refuses the key: HTTP {code}"
        return Check("DAYTONA_API_KEY", "fail", text, "set a key that is valid, and may use sandboxes")
    text = f"Daytona at {url} answers, but its sandboxes cannot be listed: HTTP {code}"
    return Check(
        "DAYTONA_API_URL", "warn", text, "try again later, or see whether the path in DAYTONA_API_URL is right"
    )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as it is: followed, it would take the key along to another host."""

    def redirect_request(self, *_: object) -> None:
        return None


def _ask(url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
    request = urllib.request.Request(f"{url}/sandbox?limit=1", headers=headers)  # noqa: S310  # settings take http(s) only
    urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_SECONDS).close()
