"""The types of settings, with their validation errors."""

import ipaddress
import math
import re
import unicodedata
from base64 import b64decode
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from runner_service.addresses import UnixAddress, parse_address, tcp_addresses
from runner_service.allowed_hosts import parse_hosts
from runner_service.identity import TENANT
from runner_service.settings.reading import Before
from runner_service.settings.secret_str import SecretStr

_SECRETS_KEY_BYTES = 32
_OWNER = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")

N = TypeVar("N", int, float)


def _address(text: str) -> str:
    parse_address(text)
    return text


def split_addresses(text: str) -> list[str]:
    """Returns the addresses of a list. A comma may also be part of the path of a unix socket."""
    return [str(parse_address(each.strip())) for each in _BETWEEN_ADDRESSES.split(text)]


_BETWEEN_ADDRESSES = re.compile(r",\s*(?=unix:|\[|[^,/\s]+:\d+\s*(?:,|$))")


def _addresses(text: str) -> str:
    found = split_addresses(text)
    if len(set(found)) < len(found):
        raise ValueError("should not name an address twice")
    return text


def _tcp_address(text: str) -> str:
    if isinstance(parse_address(text), UnixAddress):
        raise ValueError("should be host:port or [IPv6]:port")  # noqa: TRY004  # it is the value
    return text


def _tcp_addresses(text: str) -> str:
    tcp_addresses(text)
    return text


def _trimmed(text: str) -> str:
    """Returns the text without white space around it. Raises ValueError: quotes or invisible characters are in it."""
    text = text.strip()
    if odd := next((each for each in text if not (each.isascii() and each.isprintable())), ""):
        raise ValueError(f"should be plain ASCII; it holds {unicodedata.name(odd, repr(odd))}, perhaps from a document")
    if text[:1] in _QUOTES or text[-1:] in _QUOTES:
        raise ValueError("should not be in quotes")
    return text


_QUOTES = ("'", '"', "`")


def _url(text: str) -> str:
    text = _trimmed(text)
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:  # raises for what is no port
        raise ValueError("should be a URL, http://… or https://…")
    if parts.username or parts.password:
        raise ValueError("should hold no user name or password: there are variables for keys")
    return text.rstrip("/")


def _key(secret: SecretStr) -> SecretStr:
    text = _trimmed(secret.get_secret_value())
    if " " in text:
        raise ValueError("should hold no spaces")
    return SecretStr(text)


def _header_value(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("should be printable ASCII without spaces, or no caller could send it")
    return secret


def _paths(text: str) -> str:
    for path in text.split(":"):
        if not path.startswith("/") or "/../" in f"{path}/":
            raise ValueError("should be absolute paths without '..', separated by ':'")
    return text


def _networks(text: str) -> str:
    for each in text.split(","):
        if each.strip():
            ipaddress.ip_network(each.strip())
    return text


def _hosts(text: str) -> str:
    parse_hosts(text.split(","))
    return text


def _volumes(text: str) -> str:
    for each in filter(None, text.split(",")):
        name, _, path = each.strip().partition(":")
        if not name or not path.startswith("/"):
            raise ValueError(f"{each.strip()} is not a name and an absolute path, such as cache:/cache")
    return ",".join(each.strip() for each in text.split(",") if each.strip())


def _secrets_key(keys: SecretStr) -> SecretStr:
    for each in keys.get_secret_value().split(","):
        try:
            size = len(b64decode(each, validate=True))
        except ValueError:
            size = 0
        if size != _SECRETS_KEY_BYTES:
            raise ValueError("should be 32 bytes in base64, or two of those separated by a comma")
    return keys


def _tenant(text: str) -> str:
    if not TENANT.fullmatch(text):
        raise ValueError("should be at most 40 lower-case letters, digits and '-', not beginning with '-'")
    return text


def _owner(text: str) -> str:
    if not _OWNER.fullmatch(text):
        raise ValueError("should be at most 40 lower-case letters, digits and '-', not beginning or ending with '-'")
    return text


def _positive(value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError("should be a finite number above 0")
    return value


def at_least(least: N, most: float = math.inf) -> Callable[[N], N]:
    """Returns a check that a number is not below `least` nor above `most`, and finite."""
    text = f"at least {least}" if most == math.inf else f"from {least} to {most}"

    def check(value: N) -> N:
        if not (least <= value <= most and value < math.inf):
            raise ValueError(f"should be {text}")
        return value

    return check


in_any_case = Before(str.lower)
"""For choices that may be written in capitals."""

TenantText = Annotated[str, _tenant]
VolumeList = Annotated[str, _volumes]
NetworkList = Annotated[str, _networks]
HostList = Annotated[str, _hosts]
FilesLevel = Literal["none", "workspace", "read_only", "strict"]
NetworkLevel = Literal["all", "proxy", "none"]
PathList = Annotated[str, _paths]
AddressListText = Annotated[str, _addresses]
AddressText = Annotated[str, _address]
TcpText = Annotated[str, _tcp_address]
TcpListText = Annotated[str, _tcp_addresses]
UrlText = Annotated[str, _url]
OwnerText = Annotated[str, _owner]
Key = Annotated[SecretStr, _key]
SecretsKey = Annotated[SecretStr, _secrets_key]
Token = Annotated[SecretStr, _header_value]
Port = Annotated[int, at_least(1, 65535)]
Count = Annotated[int, at_least(1)]
CountOrZero = Annotated[int, at_least(0)]
Seconds = Annotated[float, _positive]
SecondsOrZero = Annotated[float, at_least(0)]
