"""The owners that an execution has had, for watchers of a log that can lose its tail in a failover."""

from typing import NamedTuple


class Start(NamedTuple):
    """An owner's `token`, and the sequence `after` which its events begin."""

    token: int
    after: int


class OwnerHistory(tuple[Start, ...]):
    """The owners, the first one first; empty where a log has one owner for ever."""

    __slots__ = ()

    @property
    def token(self) -> int:
        """The token of the newest owner; 0 for none."""
        return self[-1].token if self else 0

    def kept(self, token: int, position: int) -> int:
        """Returns up to which sequence the log has what a watcher has seen: at most `position`.

        `token` is that of the owner whose event the watcher saw last. A later owner that began before `position` did
        so because the log had lost what came after.
        """
        return min([position, *(start.after for start in self if start.token > token)])


def decode_history(stored: bytes | None) -> OwnerHistory:
    """Decodes a history, as `<token>:<after>` with a space between two."""
    pairs = (each.split(b":") for each in (stored or b"").split())
    return OwnerHistory(Start(int(token), int(after)) for token, after in pairs)
