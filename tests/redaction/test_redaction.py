"""Redaction: what it finds, and that cutting a stream changes nothing."""

import base64
import json
import random
import re
import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from runner_service.redaction import MARK, Redactor
from runner_service.redaction.matcher import Match, Patterns

SECRET = "a-secret-of-some-length"


def test_a_secret_is_replaced_wherever_it_stands() -> None:
    redactor = Redactor(["hunter2-hunter2"])
    assert redactor.text("a hunter2-hunter2 b") == f"a {MARK} b"
    assert redactor.data(b"\x00hunter2-hunter2\xff") == b"\x00" + MARK.encode() + b"\xff"


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
def test_a_secret_is_found_in_base64_at_every_alignment(before: str) -> None:
    secret = "correct horse>>battery??staple"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(f"{before}{secret}, and more".encode()).decode()
        redacted = Redactor([secret]).text(text)
        assert MARK in redacted
        leftover = base64.urlsafe_b64decode(
            re.sub(r"\[redacted:secret\].*", "", redacted).replace("+", "-").replace("/", "_").ljust(400, "A")
        )
        assert b"correct" not in leftover


@pytest.mark.parametrize("width", [64, 76])
def test_a_long_secret_is_found_in_base64_that_programs_break_into_lines(width: int) -> None:
    secret = "sk-" + "".join(map(str, range(100)))
    data = base64.b64encode(f"{secret}\n".encode()).decode()
    text = "\n".join(data[start : start + width] for start in range(0, len(data), width))
    assert len(Redactor([secret]).text(text)) <= len(MARK) + 4


def test_a_secret_is_found_without_its_last_line_end() -> None:
    redactor = Redactor(["hunter2-hunter2\n"])
    assert redactor.text("-p hunter2-hunter2 -v") == f"-p {MARK} -v"


def test_a_secret_is_found_url_encoded_and_json_escaped() -> None:
    secret = 'pa"ss/wörd & more'
    redactor = Redactor([secret])
    for text in (
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
        quote(secret),
        quote(secret, safe="").lower(),
    ):
        assert MARK in redactor.text(text), text


KEY_LINES = ["MIIEvQIBADANBgkqhkiG9w0BAQ", "EFAASCBKcwggSjAgEAAoIBAQC7", "9w0BAQEFAA=="]
KEY = "-----BEGIN PRIVATE KEY-----\n" + "\n".join(KEY_LINES) + "\n-----END PRIVATE KEY-----\n"


def test_each_line_of_a_key_is_a_secret_but_what_says_that_it_is_a_key_is_none() -> None:
    redactor = Redactor([KEY])
    first, second, short = KEY_LINES
    text = f"  {second}\r\n-----BEGIN PRIVATE KEY-----\n{short} {first}"
    assert redactor.text(text) == f"  {MARK}\r\n-----BEGIN PRIVATE KEY-----\n{short} {MARK}"
    stream = redactor.stream()
    pieces = [stream.feed(piece.encode()) for piece in (first[:9], first[9:] + "\n", "-----BEGIN PRIV", "ATE KEYS")]
    assert b"".join([*pieces, stream.flush()]).decode() == f"{MARK}\n-----BEGIN PRIVATE KEYS"


def test_a_key_inside_of_json_is_found_when_a_program_prints_it_from_there() -> None:
    redactor = Redactor([json.dumps({"type": "account", "private_key": KEY})])
    printed = redactor.text(KEY)
    assert not any(line in printed for line in KEY_LINES[:2])


@pytest.mark.parametrize(("given", "printed"), [("\n", "\r\n"), ("\r\n", "\n")])
def test_a_secret_is_found_whole_with_other_line_ends(given: str, printed: str) -> None:
    lines = ["user: me", "pass: it", "ok: so"]  # each of them too short to be looked for
    redactor = Redactor([given.join(lines)])
    assert redactor.text(f"<{printed.join(lines)}>") == f"<{MARK}>"
    assert MARK in redactor.text(json.dumps(printed.join(lines)))


def test_a_secret_is_found_in_hexadecimal_of_either_case() -> None:
    redactor = Redactor(["hunter2-hunter2"])
    written = b"hunter2-hunter2".hex()
    assert redactor.text(f"00{written} {written.upper()}FF") == f"00{MARK} {MARK}FF"


def test_values_of_fewer_than_six_bytes_are_left_alone() -> None:
    redactor = Redactor(["yes", "12345"])
    assert not redactor
    assert redactor.text("yes 12345") == "yes 12345"


def test_every_string_of_a_json_value_is_redacted() -> None:
    value = {"a s3cr3t-value": ["s3cr3t-value", 1, None, {"x": "s3cr3t-value!"}]}
    assert Redactor(["s3cr3t-value"]).value(value) == {f"a {MARK}": [MARK, 1, None, {"x": f"{MARK}!"}]}


def test_only_what_may_be_a_secret_is_held_back() -> None:
    stream = Redactor(["abcdefgh"]).stream()
    assert stream.feed(b"hello\n") == b"hello\n"
    assert stream.feed(b"xx abcd") == b"xx "
    assert stream.feed(b"e!") == b"abcde!"
    assert stream.feed(b"abcdefg") == b""
    assert stream.flush() == b"abcdefg"


def test_the_longest_of_overlapping_secrets_wins() -> None:
    redactor = Redactor(["abcdef", "abcdefghij", "efghijklm"])
    for text in ("abcdefghijklm", "abcdefg", "xabcdefghi"):
        stream = redactor.text_stream()
        assert "".join(map(stream.feed, text)) + stream.flush() == redactor.text(text)


def test_a_text_stream_survives_wide_characters_and_half_surrogates() -> None:
    redactor = Redactor(["gehéim-é-wört"])
    stream = redactor.text_stream()
    pieces = ["a\ud83dé", "geh", "éim-é-w", "ört", "€"]
    assert "".join(map(stream.feed, pieces)) + stream.flush() == f"a\ud83dé{MARK}€"


def test_cutting_a_stream_anywhere_changes_nothing() -> None:
    """Against the whole-value redactor, over random secrets, texts and cuts of a small alphabet full of overlaps."""
    chance = random.Random(7)
    for _ in range(1500):
        alphabet = chance.choice(["ab", "abc", "abcd"])
        secrets = ["".join(chance.choices(alphabet, k=chance.randint(6, 12))) for _ in range(chance.randint(1, 4))]
        parts = [
            chance.choice([*secrets, "".join(chance.choices(alphabet, k=3))]) for _ in range(chance.randint(1, 12))
        ]
        text = "".join(part[: chance.randint(1, 12)] for part in parts).encode()
        redactor = Redactor(secrets)
        stream = redactor.stream()
        done, position = [], 0
        while position < len(text):
            size = chance.randint(1, 9)
            done.append(stream.feed(text[position : position + size]))
            position += size
        done.append(stream.flush())
        assert b"".join(done) == redactor.data(text), (secrets, text)


def test_a_secret_is_found_that_begins_in_what_was_passed_on_for_its_line_end() -> None:
    stream = Redactor(["ccab-first-secret", "cab-second-secret!"]).stream()
    passed = [stream.feed(each) for each in (b"c\nc", b"ab-s", b"econd-secret!\n")]
    assert b"".join([*passed, stream.flush()]) == b"c\nc" + MARK.encode() + b"\n"


def test_repr_shows_no_secret() -> None:
    assert "hunter2" not in repr(Redactor(["hunter2-hunter2"]))


@pytest.mark.parametrize(
    "value",
    [
        f"{'x' * 100_000} {SECRET}",
        {"deep": [{"name": SECRET, SECRET: number} for number in range(1000)]},
        [SECRET, None, 1, 1.5, True, ("a", SECRET)],
        {str(number): SECRET for number in range(10_000)},
    ],
)
async def test_a_value_is_redacted_alike_on_the_loop_and_in_a_thread(value: object) -> None:
    redactor = Redactor([SECRET])
    redacted = await redactor.any_value(value)
    assert redacted == redactor.value(value)
    assert SECRET not in str(redacted)


async def test_only_a_small_value_is_redacted_on_the_loop() -> None:
    threads: set[str] = set()

    class Watching(Redactor):
        def value(self, value: object) -> object:
            threads.add(threading.current_thread().name)
            return super().value(value)

    redactor = Watching([SECRET])
    await redactor.any_value({"a": ["b"] * 100})
    assert threads == {threading.main_thread().name}
    threads.clear()
    large: object
    for large in ("x" * 100_000, ["x"] * 10_000, {str(number): {} for number in range(10_000)}):
        await redactor.any_value(large)
    assert threads
    assert threading.main_thread().name not in threads


ALIKE = {
    "runs": (["a" * length for length in range(6, 500)], b"a" * 30_000),
    "repetitions": (["ab" * length for length in range(3, 250)], b"ab\n" * 10_000),
    "one beginning": (["x" * 300 + f"{number:0100}" for number in range(200)], b"x" * 30_000),
    "one that is long": (["a" * 100_000 + "b"], b"a" * 30_000),
}


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("chunk", [1000, 70_000])
def test_no_secret_passes_where_comparing_all_would_take_too_long(name: str, chunk: int) -> None:
    secrets, fill = ALIKE[name]
    long = "".join(random.Random(2).choices("0123456789", k=5000))
    stream = Redactor([*secrets, SECRET, long]).stream()
    text = b"".join([fill, SECRET.encode(), fill, long.encode(), fill, secrets[-1].encode(), fill[:99], b" end"])
    parts = [stream.feed(text[start : start + chunk]) for start in range(0, len(text), chunk)]
    told = b"".join([*parts, stream.flush()])
    assert SECRET.encode() not in told
    assert secrets[-1].encode() not in told
    assert all(long[start : start + 100].encode() not in told for start in range(0, 5000, 100))
    assert told.endswith(b" end")
    assert len(told) < len(text)


def test_a_large_text_is_redacted_in_pieces_between_which_other_threads_run() -> None:
    lengths: list[int] = []

    class Watched(Patterns):
        def matches(self, text: bytes) -> Iterator[Match]:
            lengths.append(len(text))
            return super().matches(text)

    redactor = Redactor([])
    redactor.patterns = Watched.of([SECRET])
    assert redactor.text(f"{'x' * 500_000}{SECRET}{'y' * 500_000}") == f"{'x' * 500_000}{MARK}{'y' * 500_000}"
    assert lengths
    assert max(lengths) < 100_000


@pytest.mark.parametrize("before", [0, 95, 99, 100, 65_500, 65_630])
def test_the_beginning_of_a_text_shows_no_part_of_a_secret(before: int) -> None:
    text = "x" * before + SECRET + "y" * 100_000
    redactor = Redactor([SECRET])
    assert redactor.beginning(text, 100) == redactor.text(text)[:100]
    assert redactor.beginning(text[:110], 100) == redactor.text(text[:110])[:100]
