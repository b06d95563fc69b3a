"""Facade of the Stigmer daemon for `executions`: resolves an execution by id, and reports its status."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from runner_service.identity import OwnerKey, bare_id, ids_to_keys
from runner_service.settings import Settings
from runner_service.stigmer.client import DaemonClient, OnConnectionChange, daemon_client
from runner_service.stigmer.formatting import refusal_status
from runner_service.stigmer.pending_reports import PENDING_REPORT
from runner_service.stigmer.reporter import OpenStream, Reporter, running_reporter
from runner_service.stigmer.resolver import Check, Found, read_execution
from runner_service.storage.event_log import EventLog
from runner_service.telemetry import metrics
from runner_service.v1 import agent_runner_pb2 as runner_pb2


class Daemon:
    """The Stigmer daemon. Construct it with `stigmer_daemon`."""

    def __init__(
        self, client: DaemonClient, reporter: Reporter, check: Check, *, tenant: str, is_unattended: bool
    ) -> None:
        self._client = client
        self._reporter = reporter
        self._check = check
        self.tenant = tenant
        """Whose executions the daemon has."""
        self._is_unattended = is_unattended

    async def read(self, asked: runner_pb2.ExecuteAgentRequest) -> Found:
        """Reads the execution that `asked` names. Raises CallError."""
        key = asked.execution_id
        named = runner_pb2.ExecuteAgentRequest()
        named.CopyFrom(asked)
        named.execution_id = bare_id(key)
        found = await read_execution(self._client, named, self._check)
        ids_to_keys(found.request, self.tenant)
        if self._is_unattended:
            found.request.approval_policy.unattended = True
        return found

    @property
    def execution_values(self) -> Mapping[str, bytes]:
        """To be stored with an execution that was read by id, so that it is reported even after a crash."""
        return PENDING_REPORT

    def follow(self, execution_id: OwnerKey) -> None:
        """Starts reporting an execution that is in the log."""
        self._reporter.follow(execution_id)

    async def follow_if_pending(self, execution_id: OwnerKey) -> None:
        """Starts reporting an execution that another process has begun to report. Raises LogError."""
        await self._reporter.follow_if_pending(execution_id)

    async def wait_reported(self, execution_id: OwnerKey) -> None:
        """Waits until the final report of an execution has arrived, or the daemon refused it."""
        await self._reporter.wait_reported(execution_id)

    async def report_refusal(self, execution_id: str, code: str, message: str, *, is_cancelled: bool = False) -> None:
        """Reports an execution that was never started as FAILED or CANCELLED.

        Returns when the report has arrived, or the daemon refused it.
        """
        await self._reporter.send_refusal(execution_id, refusal_status(code, message, is_cancelled=is_cancelled))

    async def attach(self, open_stream: OpenStream) -> None:
        """Resumes the pending reports of earlier processes; executions can be followed from here on.

        `open_stream` opens the events of an execution.
        """
        await self._reporter.attach(open_stream)


@asynccontextmanager
async def stigmer_daemon(
    settings: Settings, log: EventLog, *, check: Check, on_connection_change: OnConnectionChange
) -> AsyncIterator[Daemon]:
    """Connects to STIGMER_BACKEND_ENDPOINT in the background; an unreachable daemon is not an error.

    `check` validates a request, `on_connection_change` is called with each change of the connection state.
    """
    async with (
        daemon_client(settings, on_connection_change) as client,
        running_reporter(client, log) as reporter,
    ):
        with metrics.gauges_observed({metrics.DAEMON_UNREACHABLE: lambda: int(client.is_connected is not True)}):
            yield Daemon(
                client, reporter, check, tenant=settings.stigmer_tenant, is_unattended=settings.stigmer_unattended
            )
