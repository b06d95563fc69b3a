"""What every request of a browser has to pass before it is looked at, and what every response says."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_JSON = "application/json"


class Guard:
    """Refuses requests that another site, or a name that only resolves to us, has a browser make."""

    def __init__(self, host: str, names: tuple[str, ...]) -> None:
        self._names = _LOOPBACK_NAMES | {host.strip("[]").lower(), *(name.lower() for name in names)}

    def check(self, request: web.Request) -> None:
        """Raises the HTTP error that a request gets."""
        host = request.headers.get("Host", "")
        if _name_in(host) not in self._names:
            raise web.HTTPMisdirectedRequest(text="this is not the name of the service; WEB_HOSTS can add it\n")
        if request.method in {"GET", "HEAD"}:
            return
        if request.content_type != _JSON:
            raise web.HTTPUnsupportedMediaType(text=f"send {_JSON}\n")
        if _authority_in(request.headers.get("Origin", "")) != host.lower():
            raise web.HTTPForbidden(text="this request does not come from the page of the service\n")
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise web.HTTPForbidden(text="this request does not come from the page of the service\n")


def _authority_in(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name_in(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
