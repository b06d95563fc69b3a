"""Detects agents that repeat the same calls with the same results."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from runner_service.errors import RepetitionEnd

LOOP_REMARK = (
    "\n[You have made this call before, with the same arguments and the same result, and nothing else since. "
    "Making it again will not help: try something else, or say what keeps you from going on]"
)


_WARN_AT = 3
_POLLING_SECONDS = 2.0


class LoopDetector:
    """Observes the calls of one agent. A call repeats when its name, arguments and result were all seen before.

    At the third call in a row that repeats the model is warned, at number `allowed` the execution ends, both counted
    with the first one; 0 is unlimited. Slow calls are not observed: an agent that polls is not stuck.
    """

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._seen: set[bytes] = set()
        self._calls = 0

    def observe_call(self, name: str, arguments: Mapping[str, Any], result: str, elapsed_seconds: float = 0.0) -> bool:
        """Observes a finished call; returns whether to warn the model.

        Raises:
            RepetitionEnd: the limit of repeating calls was reached.
        """
        if not self._allowed or elapsed_seconds > _POLLING_SECONDS:
            return False
        known = hashlib.blake2b(json.dumps([name, arguments, result], default=str).encode(), digest_size=16).digest()
        if known not in self._seen:
            self._seen.add(known)
            self._calls = 1
            return False
        self._calls += 1
        if self._calls >= self._allowed:
            raise RepetitionEnd(name, self._calls)
        return self._calls == min(_WARN_AT, self._allowed - 1)
