"""How far the watchers of an execution are, and which of them have seen events that the log has lost since."""

from runner_service.errors import LogWentBackError, SequenceOutOfRangeError, UnavailableError
from runner_service.storage.owner_history import OwnerHistory

_RETRY_DELAY_SECONDS = 1.0


class Positions:
    """The position of each watcher. A log goes back when a failover loses its tail together with the owner."""

    def __init__(self) -> None:
        self.owners = OwnerHistory()
        """The owners that were known when the newest event was shown."""
        self.changes = 0
        """Counts how often the log went back."""
        self._after: dict[object, int] = {}
        self._went_back: dict[object, int] = {}

    def __bool__(self) -> bool:
        """Tells whether there are watchers."""
        return bool(self._after)

    @property
    def least(self) -> int | None:
        """The position of the watcher that is farthest behind; None without watchers."""
        return min(self._after.values(), default=None)

    def set(self, watcher: object, after: int) -> None:
        """Notes that a watcher has been given the events up to `after`. Raises LogWentBackError."""
        if watcher in self._went_back:
            raise LogWentBackError(self._went_back[watcher])
        self._after[watcher] = after

    def remove(self, watcher: object) -> None:
        """Removes a watcher."""
        self._after.pop(watcher, None)
        self._went_back.pop(watcher, None)

    def observe(self, owners: OwnerHistory, committed: int) -> int:
        """Takes over the owners that the log has now; returns up to which sequence what was shown is still in it."""
        known = self.owners.token
        self.owners = owners or self.owners
        kept = owners.kept(known, committed) if known else committed
        if kept == committed:
            return committed
        self.changes += 1
        self._went_back.update({watcher: kept for watcher, after in self._after.items() if after > kept})
        return kept

    def require(self, after: int, owner: int, committed: int, *, finished: bool) -> None:
        """Checks the position of a watcher that comes back; `owner` is the token of the last one it saw, or 0.

        Raises:
            LogWentBackError: the log has lost events that the watcher has seen.
            UnavailableError: it has, and the owner that published them may publish them again.
            SequenceOutOfRangeError: `after` is beyond the newest event, and nothing tells why.
        """
        kept = self.owners.kept(owner, after) if owner else after
        if kept < after:
            raise LogWentBackError(kept)
        if after <= committed:
            return
        if owner > self.owners.token > 0:
            raise LogWentBackError(committed)
        if owner and owner == self.owners.token and not finished:
            text = "the log has lost events, which their owner may append again; call again"
            raise UnavailableError(text, retry_delay=_RETRY_DELAY_SECONDS)
        raise SequenceOutOfRangeError(f"after_sequence is {after}, but the newest event is {committed}")
