"""Redaction over chunk borders: no secret passes, and without secrets nothing changes."""

import random

from hypothesis import given
from hypothesis import strategies as st

from runner_service.redaction import MARK, Redactor
from runner_service.redaction.forms import forms_of

alphabets = st.sampled_from(["ab", "abc\n", "ab\r\n ", "aé漢", "abc'\"\\/<&"])


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[str], bytes, list[int]]:
    """Secrets, a text that holds parts and forms of them, and the lengths of its chunks."""
    alphabet = draw(alphabets)
    chance = random.Random(draw(st.integers(0, 2**32)))
    lengths = [draw(st.sampled_from([6, 9, 20, 40, 100, 300, 3000])) for _ in range(draw(st.integers(1, 4)))]
    secrets = ["".join(chance.choices(alphabet, k=length)) for length in lengths]
    forms = [form for secret in secrets for form in forms_of(secret)] or [b"ab"]
    parts = []
    for _ in range(draw(st.integers(1, 8))):
        form = chance.choice(forms)
        start = chance.choice([0, 0, 0, chance.randrange(len(form) + 1)])
        end = chance.choice([len(form), len(form), chance.randrange(len(form) + 1)])
        parts += [form[start:end], "".join(chance.choices(alphabet, k=chance.randrange(4))).encode()]
    text = b"".join(parts)
    return secrets, text, draw(st.lists(st.integers(1, 80), min_size=len(text) // 40 + 1, max_size=len(text) // 40 + 1))


@given(cases())
def test_cutting_a_stream_lets_no_secret_pass(case: tuple[list[str], bytes, list[int]]) -> None:
    secrets, text, lengths = case
    redactor = Redactor(secrets)
    stream = redactor.stream()
    done, position = [], 0
    for length in [*lengths, len(text)]:
        done.append(stream.feed(text[position : position + length]))
        position += length
    redacted = b"".join([*done, stream.flush()])
    for part in redacted.split(MARK.encode()):
        for line in part.splitlines():
            assert redactor.data(line) == line, (secrets, text, lengths)
    # A part of a long form that is not its beginning is found late in a stream.
    if b"\n" not in text and b"\r" not in text and max(map(len, secrets)) <= 40:
        assert redacted == redactor.data(text), (secrets, text, lengths)


@given(cases())
def test_a_text_stays_text(case: tuple[list[str], bytes, list[int]]) -> None:
    secrets, _, lengths = case
    redactor = Redactor(secrets)
    stream = redactor.text_stream()
    text = "é漢".join(secrets)
    pieces = [stream.feed(text[at : at + lengths[0]]) for at in range(0, len(text), lengths[0])]
    assert "".join([*pieces, stream.flush()]).encode().decode() is not None


@given(st.lists(st.binary(max_size=100)))
def test_without_secrets_nothing_changes(chunks: list[bytes]) -> None:
    stream = Redactor([]).stream()
    assert b"".join([*map(stream.feed, chunks), stream.flush()]) == b"".join(chunks)
