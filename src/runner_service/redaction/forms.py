"""The forms in which programs print a secret. Line ends are left out: the matcher ignores them."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice

from runner_service.redaction.unbroken import without_line_ends

MIN_SECRET_BYTES = 6
"""The shortest value that is redacted."""

ENCODING = ("utf-8", "surrogatepass")  # a model's JSON may hold half a surrogate pair

_MIN_LINE_BYTES = 16  # of a secret that has several; shorter ones may be words, or brackets
_MAX_LINES = 128  # a key of 8192 bits has a hundred
_LINE_END = re.compile(r"\r\n|\n|\r|\\n")  # also those that JSON has escaped: programs print keys from within JSON
_PEM_BOUNDARY = re.compile(r"-----(BEGIN|END) [A-Z0-9 ]+-----")
_SHELL_SPECIAL = re.compile(r"[^A-Za-z0-9_./:=@%+,-]", re.ASCII)
_SAFE_IN_SHELL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:=@%+,-"
_SAFE_IN_URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~-"
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")  # as most keys are: nothing has to be escaped anywhere
_ANSI_C = {"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\x1b": r"\E", "'": r"\'"}  # the backslash first
_ANSI_C_CONTROL = re.compile(r"[\x00-\x1f]")
_OCTAL = str.maketrans({chr(byte): f"\\{byte:03o}" for byte in range(0x80, 0x100)})

Encoder = Callable[[str], set[str]]


def forms_of(secret: str) -> Iterator[bytes]:
    """Yields the forms of a secret, the most likely first."""
    values = _values(secret)
    if values:  # they differ in line ends only, which do not count here
        yield from (_squeezed(values[0]), *map(_squeezed, _lines(values[0])))
        yield from map(_squeezed, _unquoted(values[0]))
    for encoder in _ENCODERS if not _PLAIN.fullmatch(secret) else _ENCODERS_OF_PLAIN:
        for value in values:
            yield from map(_squeezed, encoder(value))


def _squeezed(text: str) -> bytes:
    return without_line_ends(text.encode(*ENCODING))


def _values(secret: str) -> list[str]:
    """The secret without what a shell's "$(cat key)" loses, and with the line ends of either system."""
    stripped = secret.strip()
    value = stripped if len(stripped.encode(*ENCODING)) >= MIN_SECRET_BYTES else secret
    if len(value.encode(*ENCODING)) < MIN_SECRET_BYTES:
        return []
    unix = value.replace("\r\n", "\n")
    return list(dict.fromkeys([value, unix, unix.replace("\n", "\r\n")]))


def _lines(value: str) -> Iterator[str]:
    """The lines of a value that has several, except PEM boundaries."""
    lines = [line.strip() for line in _LINE_END.split(value)]
    secret = (line for line in lines if len(line) >= _MIN_LINE_BYTES and not _PEM_BOUNDARY.fullmatch(line))
    return islice(secret, _MAX_LINES) if lines[1:] else iter(())


def _json(value: str) -> set[str]:
    """As Python, JavaScript, Go (`<` escaped) and PHP (`/` escaped) write it, and JSON in JSON."""
    once = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    go = {re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text) for text in once}
    once |= go | {text.replace("/", r"\/") for text in once}
    return once | {json.dumps(text, ensure_ascii=False)[1:-1] for text in once}


def _base64(value: str) -> set[str]:
    """The characters that depend on the value alone, for each of the three ways it can lie in something longer."""
    raw = value.encode(*ENCODING)
    forms: set[str] = set()
    for before in range(3):
        whole = bytes(before) + raw
        inside = slice((before * 8 + 5) // 6, len(whole) * 8 // 6)
        forms |= {base64.b64encode(whole)[inside].decode(), base64.urlsafe_b64encode(whole)[inside].decode()}
    return forms


def _shell(value: str) -> set[str]:
    """As `set -x`, `export -p` and `printf %q` write it."""
    quoted = value.replace("'", r"'\''")
    exported = re.sub(r'["$`\\]', r"\\\g<0>", value)
    escaped = _backslashed(value)
    octal = set() if value.isascii() else {_ansi_c(value, octal=True)}
    return {quoted, exported, escaped, _ansi_c(value), *octal}


def _unquoted(value: str) -> set[str]:
    """As `echo $VALUE` and `set -x` write it."""
    words = value.split()
    return {" ".join(words), " ".join(map(_traced, words))}


def _backslashed(value: str) -> str:
    unsafe = value.encode(*ENCODING).translate(None, _SAFE_IN_SHELL).decode(*ENCODING)
    for character in ("\\", *(set(unsafe) - {"\\"})):
        value = value.replace(character, "\\" + character)
    return value


def _traced(word: str) -> str:
    """A word as `set -x` writes it."""
    if _ANSI_C_CONTROL.search(word):
        return f"$'{_ansi_c(word)}'"
    return "'" + word.replace("'", r"'\''") + "'" if _SHELL_SPECIAL.search(word) else word


def _ansi_c(value: str, *, octal: bool = False) -> str:
    r"""As in `$'...'`, where bytes beyond ASCII may be octal, such as `\303`."""
    text = value
    for character, escaped in _ANSI_C.items():
        text = text.replace(character, escaped)
    if not octal or text.isascii():
        return text
    return text.encode(*ENCODING).decode("latin-1").translate(_OCTAL)


def _url(value: str) -> set[str]:
    raw = value.encode(*ENCODING)
    forms: set[str] = set()
    for code in (b"%%%02X", b"%%%02x"):
        forms.add(_percent_encoded(raw, code, safe=_SAFE_IN_URL).decode())
        if b"/" in raw:
            forms.add(_percent_encoded(raw, code, safe=_SAFE_IN_URL + b"/").decode())
        if b" " in raw:
            plus = _percent_encoded(raw.replace(b" ", b"\0"), code, safe=_SAFE_IN_URL)
            forms.add(plus.replace(b"%00", b"+").decode())
    return forms


def _percent_encoded(raw: bytes, code: bytes, *, safe: bytes) -> bytes:
    # A pass for each byte that occurs, of which keys have few, is faster than one that looks at each byte.
    unsafe = set(raw.translate(None, safe))
    for byte in (b"%"[0], *(unsafe - {b"%"[0]})):
        raw = raw.replace(bytes([byte]), code % byte)
    return raw


def _hexadecimal(value: str) -> set[str]:
    """In either case, and with spaces as `od -tx1` and `xxd -g1` write it."""
    raw = value.encode(*ENCODING)
    return {raw.hex(), raw.hex().upper(), raw.hex(" ")}


_HTML_TEXT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_HTML = {**_HTML_TEXT, ord('"'): "&quot;", ord("'"): "&#x27;"}  # as `html.escape`, whose module has all names of HTML


def _html(value: str) -> set[str]:
    escaped = value.translate(_HTML)
    return {escaped, value.translate(_HTML_TEXT), escaped.replace("&#x27;", "&#39;").replace("&quot;", "&#34;")}


def _python(value: str) -> set[str]:
    return {repr(value)[1:-1], ascii(value)[1:-1], repr(value.encode(*ENCODING))[2:-1]}


_ENCODERS: tuple[Encoder, ...] = (_json, _base64, _shell, _url, _hexadecimal, _html, _python)
_ENCODERS_OF_PLAIN: tuple[Encoder, ...] = (_base64, _hexadecimal)
"""Those that change what is `_PLAIN`."""
