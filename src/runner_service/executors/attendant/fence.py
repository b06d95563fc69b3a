"""The fence against earlier owners of an execution: replicas that went on after another one had taken it over."""

import hashlib
from pathlib import Path


class Fence:
    """Remembers the highest owner token of each session, also for a later attendant of the same sandbox."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tokens: dict[str, int] = {}

    def admits(self, session: str, token: int) -> bool:
        """Tells whether the token of a request is not lower than one that was seen, and remembers it."""
        highest = self._tokens.get(session)
        if highest is None:
            highest = self._tokens[session] = self._read(session)
        if token > highest:
            self._tokens[session] = token
            self._path(session).write_text(str(token))
        return token >= highest

    def highest(self, session: str) -> int:
        """Returns the highest token that was seen."""
        return self._tokens[session]

    def _read(self, session: str) -> int:
        try:
            return int(self._path(session).read_text())
        except (OSError, ValueError):
            return 0

    def _path(self, session: str) -> Path:
        return self._directory / f"{hashlib.sha256(session.encode()).hexdigest()[:32]}.token"
