"""Maps failures of providers and of the checkpoint database to ends of the execution."""

import sqlite3

from runner_service.agent.interface import AgentRun
from runner_service.errors import ExecutionEnd, LogUnavailableEnd, ModelRejectedEnd, ModelUnavailableEnd
from runner_service.models.failures import classify


def end_for(error: Exception, run: AgentRun) -> ExecutionEnd | None:
    """Returns the end for a failure of a provider or of the database; None for any other error, a defect."""
    if isinstance(error, sqlite3.Error):
        return LogUnavailableEnd(f"the checkpoint cannot be written: {error}")
    failure = classify(error)
    if failure is None:
        return None
    text = run.redactor.text(failure.text)
    return ModelUnavailableEnd(text) if failure.kind == "transient" else ModelRejectedEnd(text)
