"""Redactors for the secrets of the service and of requests, and what executions share of their secrets."""

import logging
from collections import defaultdict
from contextlib import AbstractAsyncContextManager, nullcontext

from runner_service.executions.execution import Execution
from runner_service.executors.confinement import Confinement
from runner_service.identity import tenant_of
from runner_service.redaction import Redactor
from runner_service.redaction.shared import SharedSecrets
from runner_service.settings import Settings
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)


class Redactors:
    """Belongs to the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._own_redactor: tuple[list[str], Redactor] = ([], Redactor(()))
        """For the secrets of the service alone, which it was built for."""
        self._shared_secrets: dict[str, SharedSecrets] = defaultdict(SharedSecrets)

    async def for_request(self, request: runner_pb2.ExecuteAgentRequest) -> Redactor:
        """Builds a redactor for the secrets of a request and those of the service."""
        own, given = self._settings.secrets(), _secrets(request)
        if not given and own == self._own_redactor[0]:
            return self._own_redactor[1].copy()
        redactor = await Redactor.build([*own, *given])
        if not given:
            self._own_redactor = own, redactor.copy()
        if redactor.omitted_forms:
            logger.warning("redaction_forms_omitted count=%d", redactor.omitted_forms)
        return redactor

    def sharing_secrets(
        self, execution: Execution, request: runner_pb2.ExecuteAgentRequest, confinement: Confinement
    ) -> AbstractAsyncContextManager[None]:
        """Redacts with the secrets of all executions whose environment others can read, and only where they can."""
        if not self._settings.is_local_mode():
            return nullcontext()
        shared = self._shared_secrets[tenant_of(execution.id)]
        return shared.joined(execution.redactor, _secrets(request), can_read=not confinement)


def _secrets(request: runner_pb2.ExecuteAgentRequest) -> list[str]:
    return [entry.value for entry in request.environment.values() if entry.is_secret]
