"""Secrets of executions that can read each other's environment."""

from contextlib import AsyncExitStack

from runner_service.redaction import MARK, Redactor
from runner_service.redaction.shared import SharedSecrets

ONE, OTHER, THIRD = "first-secret-value", "second-secret-value", "third-secret-value"


async def test_each_redacts_the_secrets_of_both_in_values_and_in_streams_that_have_begun() -> None:
    shared, first, second = SharedSecrets(), Redactor([ONE]), Redactor([OTHER])
    async with shared.joined(first, [ONE], can_read=True):
        stream, words = first.stream(), first.text_stream()
        assert first.text(OTHER) == OTHER
        assert stream.feed(OTHER.encode()) == OTHER.encode()
        async with shared.joined(second, [OTHER], can_read=True):
            assert second.text(f"{ONE} {OTHER}") == f"{MARK} {MARK}"
            assert first.value({OTHER: [f"{ONE} {OTHER}"]}) == {MARK: [f"{MARK} {MARK}"]}
            cut = f"{OTHER} {ONE}"
            assert (
                b"".join([*(stream.feed(each.encode()) for each in cut), stream.flush()]).decode() == f"{MARK} {MARK}"
            )
            assert words.feed(f"it is {OTHER[:5]}") + words.feed(OTHER[5:]) + words.flush() == f"it is {MARK}"


async def test_what_was_read_is_redacted_after_its_owner_has_left_and_by_nobody_who_came_later() -> None:
    shared, first, later = SharedSecrets(), Redactor([]), Redactor([])
    async with AsyncExitStack() as running:
        await running.enter_async_context(shared.joined(first, [], can_read=True))
        async with shared.joined(Redactor([OTHER]), [OTHER], can_read=True):
            pass
        assert first.text(OTHER) == MARK
        async with shared.joined(Redactor([THIRD]), [THIRD], can_read=True):
            assert first.text(f"{OTHER} {THIRD}") == f"{MARK} {MARK}"
    assert first.text(OTHER) == MARK  # also in what is said of its end
    async with shared.joined(later, [], can_read=True):
        assert later.text(f"{OTHER} {THIRD}") == f"{OTHER} {THIRD}"


async def test_who_cannot_read_is_told_nothing_of_others_and_still_shares_its_own() -> None:
    shared, confined, reader = SharedSecrets(), Redactor([ONE]), Redactor([OTHER])
    async with shared.joined(reader, [OTHER], can_read=True), shared.joined(confined, [ONE], can_read=False):
        assert confined.text(f"{ONE} {OTHER}") == f"{MARK} {OTHER}"
        assert reader.text(f"{ONE} {OTHER}") == f"{MARK} {MARK}"


async def test_one_with_the_same_secrets_as_all_others_looks_for_them_once() -> None:
    shared, first, second = SharedSecrets(), Redactor([ONE]), Redactor([ONE])
    async with shared.joined(first, [ONE], can_read=True), shared.joined(second, [ONE], can_read=True):
        assert not any(each.patterns for each in shared._members)
