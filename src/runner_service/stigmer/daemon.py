"""The daemon as the executions see it: where some of them come from, and who is told how they go."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runner_service.settings import Settings
from runner_service.stigmer.client import DaemonClient, OnLink, daemon_client
from runner_service.stigmer.reporter import Reporter, Watch, running_reporter
from runner_service.stigmer.resolver import Check, Found, read_execution
from runner_service.storage.event_log import EventLog
from runner_service.telemetry import metrics
from runner_service.v1 import agent_runner_pb2 as runner_pb2

REPORTS_OWED = "reports-owed"
"""The directory in STATE_DIR that says which executions are still to be reported."""


class Daemon:
    """The Stigmer daemon. Construct it with `stigmer_daemon`."""

    def __init__(self, client: DaemonClient, reporter: Reporter, check: Check) -> None:
        self._client = client
        self._reporter = reporter
        self._check = check

    async def read(self, asked: runner_pb2.ExecuteAgentRequest) -> Found:
        """Reads the execution that `asked` names, and promises to report it. Raises CallError."""
        found = await read_execution(self._client, asked, self._check)
        await self._reporter.promise(asked.execution_id)
        return found

    def follow(self, execution_id: str) -> None:
        """Reports an execution that has been read and is in the log now."""
        self._reporter.follow(execution_id)

    async def attach(self, watch: Watch) -> None:
        """Goes on with the reports that an earlier process owed; from here on executions can be followed."""
        await self._reporter.attach(watch)


@asynccontextmanager
async def stigmer_daemon(settings: Settings, log: EventLog, *, check: Check, on_link: OnLink) -> AsyncIterator[Daemon]:
    """Holds the connection to STIGMER_BACKEND_ENDPOINT, whether the daemon is there or not.

    `check` is what any request must pass, `on_link` hears when the daemon comes and goes.
    """
    async with (
        daemon_client(settings, on_link) as client,
        running_reporter(client, log, settings.state_dir / REPORTS_OWED) as reporter,
    ):
        with metrics.observed({metrics.DAEMON_UNREACHABLE: lambda: int(client.is_reachable is not True)}):
            yield Daemon(client, reporter, check)
