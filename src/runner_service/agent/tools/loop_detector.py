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


class LoopDetector:
    """Observes the calls of one agent. A call repeats when its name, arguments and result were all seen before.

    After `allowed` // 2 repeating calls in a row the model is warned, after `allowed` the execution ends; 0 is
    unlimited.
    """

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._seen: set[bytes] = set()
        self._repeated = 0

    def observe_call(self, name: str, arguments: Mapping[str, Any], result: str) -> bool:
        """Observes a finished call; returns whether to warn the model.

        Raises:
            RepetitionEnd: the limit of repeating calls was reached.
        """
        if not self._allowed:
            return False
        known = hashlib.blake2b(json.dumps([name, arguments, result], default=str).encode(), digest_size=16).digest()
        if known not in self._seen:
            self._seen.add(known)
            self._repeated = 0
            return False
        self._repeated += 1
        if self._repeated >= self._allowed:
            raise RepetitionEnd(name, self._repeated)
        return self._repeated == max(1, self._allowed // 2)
