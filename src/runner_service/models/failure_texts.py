"""Says why a model call failed: in the provider's words, or the network's."""

import errno
import json
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from html import unescape
from urllib.parse import urlsplit

import httpx
import httpx2

from runner_service.errors import text_of

_TAG = re.compile(r"<(?P<end>/?)(?P<name>[a-z]*)[^<>]*>", re.IGNORECASE)
_HIDDEN_ELEMENTS = frozenset({"script", "style", "head"})
_MAX_READ_CHARACTERS = 100_000  # of a body: no reason is further down
_MAX_READ_BYTES = _MAX_READ_CHARACTERS
_MAX_WORDS_CHARACTERS = 500
_MAX_NESTING = 5
_FIELDS_OF_WORDS = ("message", "error", "detail", "msg", "errors", "error_description", "reason", "title")
_TIMEOUTS = (TimeoutError, httpx.TimeoutException, httpx2.TimeoutException)
_NETWORK_ERRORS = (
    *(ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError),
    *(httpx.RequestError, httpx2.RequestError),
)
_OWN_ERRORS = (
    httpx.LocalProtocolError,
    httpx2.LocalProtocolError,
    httpx.UnsupportedProtocol,
    httpx2.UnsupportedProtocol,
)
"""Errors of the HTTP clients that no network has caused: a header, or an address, that cannot be sent."""


async def read_error(response: httpx.Response | httpx2.Response) -> str:
    """Reads the beginning of the body of a response that is an error. Raises what its client raises."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MAX_READ_BYTES:
            break
    return body[:_MAX_READ_BYTES].decode("utf-8", "replace")


def provider_words(body: object) -> str:
    """Returns what an error body says to people, on one line of limited length."""
    text = " ".join(_unescaped(_message_in(body)).split()) or "no reason given"
    return text if len(text) <= _MAX_WORDS_CHARACTERS else f"{text[:_MAX_WORDS_CHARACTERS]}…"


def network_failure(error: BaseException) -> str:
    """Returns why a connection failed, with host and port; empty when it is another kind of error."""
    chain = list(causes(error))
    if any(isinstance(each, _OWN_ERRORS) for each in chain) or not any(
        isinstance(each, _NETWORK_ERRORS) for each in chain
    ):
        return ""
    where = next((host for each in chain if (host := _host_of(each))), "the provider")
    reason = next((text for each in reversed(chain) if (text := _network_reason(each))), "")
    if not reason and any(isinstance(each, _TIMEOUTS) for each in chain):
        return f"{where} did not answer in time"
    return f"the connection to {where} failed: {reason or words_of(chain[-1])}"


def _message_in(body: object, depth: int = 0) -> str:
    if isinstance(body, bytes):
        body = body[:_MAX_READ_CHARACTERS].decode("utf-8", "replace")
    if isinstance(body, str):
        return _text_message(body, depth)
    if depth > _MAX_NESTING:
        return ""
    if isinstance(body, Mapping):
        raw = body.get("metadata")
        inner = _message_in(raw.get("raw"), depth + 1) if isinstance(raw, Mapping) else ""
        found = (_message_in(body[name], depth + 1) for name in _FIELDS_OF_WORDS if body.get(name))
        words = next((each for each in found if each), "")
        return f"{words}: {inner}" if inner and inner not in words else words
    if isinstance(body, list | tuple):
        return "; ".join(filter(None, (_message_in(each, depth + 1) for each in body[:_MAX_NESTING])))
    return ""


def _text_message(text: str, depth: int) -> str:
    stripped = text[:_MAX_READ_CHARACTERS].strip()
    if stripped.startswith(("{", "[")) and depth <= _MAX_NESTING:
        try:
            return _message_in(json.loads(stripped), depth + 1) or stripped
        except (ValueError, RecursionError):
            return stripped
    return _text_of_page(stripped) if stripped.startswith("<") else stripped


def _text_of_page(page: str) -> str:
    """Returns the text of an HTML page, without that of elements which show none. Takes linear time."""
    parts: list[str] = []
    position, hidden = 0, False
    for tag in _TAG.finditer(page):
        if not hidden:
            parts.append(page[position : tag.start()])
        if tag["name"].lower() in _HIDDEN_ELEMENTS:
            hidden = not tag["end"]
        position = tag.end()
    return " ".join([*parts, "" if hidden else page[position:]])


def _unescaped(text: str) -> str:
    try:
        return unescape(text)
    except ValueError:  # a character reference of more digits than `int` takes
        return text


def words_of(error: BaseException) -> str:
    """Returns what an error says, or its name."""
    return provider_words(text_of(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            current = current.exceptions[0]
        else:
            current = current.__cause__ or current.__context__  # httpcore suppresses the context that says why


def _host_of(error: BaseException) -> str:
    try:
        url = str(error.request.url)  # type: ignore[attr-defined]  # of the clients' own errors
    except (AttributeError, RuntimeError):
        return ""
    return urlsplit(url).netloc.rpartition("@")[2]


def _network_reason(error: BaseException) -> str:
    """What the operating system, or TLS, says was wrong."""
    proxy = "by way of the proxy, " if "proxy" in type(error).__name__.lower() else ""
    match error:
        case ssl.SSLCertVerificationError():
            return f"{proxy}its certificate is not accepted: {getattr(error, 'verify_message', '') or error}"
        case ssl.SSLError():
            return f"{proxy}TLS failed: {getattr(error, 'reason', '') or error}"
        case socket.gaierror():
            return f"{proxy}the host name cannot be resolved ({error.strerror})"
        case OSError(errno=int(number)) if number in errno.errorcode:
            return f"{proxy}{os.strerror(number).lower()}"
        case _ if proxy:
            return f"{proxy}{words_of(error)}"
    return ""
