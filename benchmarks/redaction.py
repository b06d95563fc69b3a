"""Measures redaction: how long a redactor takes to build, and how fast it reads. Run it as a program."""

import base64
import random
import secrets
import time
from collections.abc import Mapping

from runner_service.redaction import Redactor

_MEGABYTE = 1_000_000
_CHUNKS_BYTES = (64 * 1024, 4 * 1024)
_TEXT_BYTES = 8 * _MEGABYTE


def _texts() -> Mapping[str, bytes]:
    chance = random.Random(1)
    lines = [
        f"2026-11-28T10:00:{number % 60:02d}.123Z INFO app.module{number % 7} request_done path=/usr/lib/python3/"
        f"x{number}.py status={chance.choice([200, 404, 500])} elapsed={chance.random():.6f}\n"
        for number in range(20_000)
    ]
    log = "".join(lines).encode()
    return {
        "log": (log * (_TEXT_BYTES // len(log) + 1))[:_TEXT_BYTES],
        "base64": base64.b64encode(chance.randbytes(_TEXT_BYTES))[:_TEXT_BYTES],
        "base64 in lines": base64.encodebytes(chance.randbytes(_TEXT_BYTES))[:_TEXT_BYTES],
    }


def _key(lines: int) -> str:
    return "\n".join(secrets.token_urlsafe(48) for _ in range(lines))


def _cases() -> Mapping[str, list[str]]:
    return {
        "no secret": [],
        "1 secret": [secrets.token_urlsafe(32)],
        "10 secrets": [secrets.token_urlsafe(32) for _ in range(10)],
        "100 secrets": [secrets.token_urlsafe(32) for _ in range(100)],
        "250 secrets of 1 KB": [secrets.token_urlsafe(768) for _ in range(250)],
        "250 keys of 56 lines": [_key(56) for _ in range(250)],
        "1 secret of 100 KB": [secrets.token_urlsafe(75_000)],
        "a secret of aaaab": ["aaaab" + secrets.token_urlsafe(150_000)],
    }


def _speed(redactor: Redactor, text: bytes, chunk: int) -> float:
    """Returns MB/s of one stream."""
    stream = redactor.stream()
    began = time.thread_time()
    for start in range(0, len(text), chunk):
        stream.feed(text[start : start + chunk])
    return len(text) / (time.thread_time() - began) / _MEGABYTE


def main() -> None:
    """Prints a table."""
    texts = {**_texts(), "aaaa": b"a" * _TEXT_BYTES}
    print("MB/s in chunks of 64 KiB / 4 KiB")
    for name, values in _cases().items():
        began = time.thread_time()
        redactor = Redactor(values)
        built = time.thread_time() - began
        speeds = [
            f"{title} {' / '.join(f'{_speed(redactor, text, chunk):.0f}' for chunk in _CHUNKS_BYTES)}"
            for title, text in texts.items()
        ]
        print(f"{name}: built in {built * 1000:.0f} ms, {redactor.omitted_forms} forms omitted; {', '.join(speeds)}")


if __name__ == "__main__":
    main()
