"""The lines of the log about something that fails again and again."""

import logging
import time

from runner_service.errors import text_of

_INTERVAL_SECONDS = 30.0


class FailureLog:
    """Logs that something has begun to fail, again every 30 s while it does, and that it works again."""

    def __init__(
        self, logger: logging.Logger, failing: str, working: str, *, interval_seconds: float = _INTERVAL_SECONDS
    ) -> None:
        """`failing` and `working` are the keys of the lines."""
        self._logger = logger
        self._failing = failing
        self._working = working
        self._interval_seconds = interval_seconds
        self._logged: float | None = None

    def failed(self, error: BaseException) -> None:
        """Notes one more failure."""
        now = time.monotonic()
        if self._logged is None or now - self._logged >= self._interval_seconds:
            self._logged = now
            self._logger.warning("%s error=%s", self._failing, text_of(error))

    def succeeded(self) -> None:
        """Notes that it works."""
        if self._logged is not None:
            self._logged = None
            self._logger.info("%s", self._working)
