"""The forms in which real programs print secrets."""

import base64
import html
import json
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner_service.redaction import MARK, Redactor
from runner_service.redaction.forms import _ENCODERS, forms_of

SECRETS = [
    "correct horse battery staple",
    "p@ss/w0rd+of=<someone>&co",
    """it's "quoted" and \\ `back` $HOME""",
    "gehéim-wört-漢字-value",
    "line one of it\nline two of it\nline 3",
    "tab\tand\x1bescape and more",
    "sk-proj_0A.9Z-plain_key",
]


def leaks(redacted: str, secret: str) -> bool:
    """Whether any long part of a secret is still there."""
    words = [word for word in secret.replace("\n", " ").split() if len(word) > 7]
    return MARK not in redacted or any(word in redacted for word in words)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "script",
    [
        'printf "%s" "$S"', "set -x; : $S", 'set -x; : "$S"', "export -p", "declare -p S", 'printf "%q" "$S"', "set",
        'printf "%s" "$S" | base64', 'printf "user:%s" "$S" | base64', 'printf "us:%s" "$S" | base64 -w 10',
        'printf "%s" "$S" | od -An -tx1', 'printf "%s" "$S" | xxd -p', 'echo "${S@Q}"',
    ],
)  # fmt: skip
def test_no_shell_prints_a_secret(secret: str, script: str) -> None:
    if "xxd" in script and not shutil.which("xxd"):
        pytest.skip("xxd is not installed")
    environment = {"S": secret, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, check=True)
    printed = (result.stdout + result.stderr).decode()
    redacted = Redactor([secret]).text(printed)
    assert not leaks(redacted, secret), (printed, redacted)


@pytest.mark.parametrize("secret", SECRETS)
def test_no_language_prints_a_secret(secret: str) -> None:
    go = json.dumps(secret, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    forms = {
        "JSON": json.dumps(secret),
        "JSON with Unicode": json.dumps(secret, ensure_ascii=False),
        "JSON in JSON": json.dumps({"a": json.dumps({"b": secret})}),
        "JSON of Go": go,
        "JSON of Go in JSON": json.dumps({"a": go}),
        "JSON of PHP": json.dumps(secret).replace("/", "\\/"),
        "HTML": html.escape(secret),
        "HTML of Go": html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
        "repr": repr(secret),
        "repr of bytes": repr(secret.encode()),
        "ascii": ascii(secret),
        "hexadecimal": secret.encode().hex(),
        "HEXADECIMAL": secret.encode().hex().upper(),
        "hexadecimal in lines": "\n".join(secret.encode().hex()[at : at + 10] for at in range(0, 400, 10)),
        "base64 in lines, after something": base64.encodebytes(b"user:" + secret.encode()).decode(),
    }
    redactor = Redactor([secret])
    for name, text in forms.items():
        redacted = redactor.text(f"before {text} after")
        assert redacted.startswith("before "), name
        assert redacted.count(MARK) >= 1, (name, text)
        assert len(redacted) < len(text) / 4 + 60, (name, text, redacted)


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.text("ABYZabyz0189_.-", min_size=6))
def test_a_plain_secret_has_the_forms_that_all_encoders_give(secret: str) -> None:
    assert {secret}.union(*(encoder(secret) for encoder in _ENCODERS)) == {form.decode() for form in forms_of(secret)}


def test_a_long_secret_is_found_in_part() -> None:
    secret = base64.b64encode(bytes(range(256)) * 300).decode()
    redactor = Redactor([secret])
    for part in (secret, secret[:500], secret[5000:9000], secret[-3000:]):
        redacted = redactor.text(f"<{part}>")
        assert MARK in redacted
        assert len(redacted) < 2 * len(MARK) + 1100 // 4, len(redacted)


def test_a_long_secret_in_a_stream_is_neither_kept_nor_passed_on() -> None:
    secret = base64.b64encode(bytes(range(256)) * 300).decode()
    stream = Redactor([secret]).stream()
    text = f"<{secret}>".encode()
    parts = [stream.feed(text[at : at + 1000]) for at in range(0, len(text), 1000)]
    assert b"".join([*parts, stream.flush()]) == f"<{MARK}>".encode()
    assert all(len(part) < 100 for part in parts)


def test_a_column_of_digits_is_no_secret() -> None:
    text = "".join(f"{number}\n" for number in range(1, 10))
    assert Redactor(["123456789"]).text(text) == text


def test_the_end_of_a_line_is_not_held_back_for_the_beginning_of_a_secret() -> None:
    stream = Redactor(["hunter2-hunter2-hunter2"]).stream()
    assert stream.feed(b"oh\n") == b"oh\n"
    assert stream.feed(b"unter2-hunter2-hunter2 b") == f"{MARK} b".encode()


def test_forms_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner_service.redaction.matcher.MAX_FORMS", 3)
    redactor = Redactor(["hunter2-hunter2", "correct horse battery staple"])
    assert redactor.omitted_forms > 3
    assert redactor.text("hunter2-hunter2") == MARK
