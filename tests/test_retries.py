"""One network call is tried again as long as its owner says so, and its own error is what comes out."""

import logging

import pytest

from runner_service.retries import exponential_backoff, retry


class Flaky:
    """Fails a number of times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise ConnectionError(f"http://token@host refused call {self.calls}")
        return "answer"


async def test_a_call_is_tried_again_until_it_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str, int]] = []

    def at_once(error: Exception, attempt: int) -> float:
        seen.append((type(error).__name__, attempt))
        return 0.0

    with caplog.at_level(logging.DEBUG):
        assert await retry(Flaky(3), at_once) == "answer"
    assert seen == [("ConnectionError", 1), ("ConnectionError", 2), ("ConnectionError", 3)]
    assert "token" not in caplog.text


async def test_when_its_owner_gives_up_the_error_is_raised_as_it_was() -> None:
    call = Flaky(9)
    with pytest.raises(ConnectionError, match="call 2"):
        await retry(call, lambda _, attempt: 0.0 if attempt < 2 else None)
    assert call.calls == 2


def test_the_backoff_doubles_up_to_its_bound_and_never_overflows() -> None:
    assert [exponential_backoff(each, initial=0.5, maximum=3) for each in (1, 2, 3, 4, 10_000)] == [0.5, 1, 2, 3, 3]
