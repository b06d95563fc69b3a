"""An agent that goes round in circles: noticed, told once, then ended."""

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
    """Watches the calls of one agent. A call is news when its name, arguments or result were not seen before.

    After `allowed` // 2 calls in a row without any news the model is told, after `allowed` the execution is ended;
    0 allows any number.
    """

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._seen: set[bytes] = set()
        self._repeated = 0

    def take(self, name: str, arguments: Mapping[str, Any], result: str) -> bool:
        """Takes a call that has ended; returns whether the model is to be told.

        Raises:
            RepetitionEnd: there have been too many.
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
