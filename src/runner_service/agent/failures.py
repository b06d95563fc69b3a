"""Failures of what an agent stands on, as the ends that they mean for its execution."""

import sqlite3

from runner_service.agent.interface import AgentRun
from runner_service.errors import ExecutionEnd, LogUnavailableEnd, ModelRejectedEnd, ModelUnavailableEnd
from runner_service.models.failures import classify


def end_meant_by(error: Exception, run: AgentRun) -> ExecutionEnd | None:
    """Returns the end that a provider's or a disk's failure means; None for any other error, which is a defect."""
    if isinstance(error, sqlite3.Error):
        return LogUnavailableEnd(f"how far it has come cannot be written down: {error}")
    failure = classify(error)
    if failure is None:
        return None
    text = run.redactor.text(failure.text)
    return ModelRejectedEnd(text) if failure.kind == "rejected" else ModelUnavailableEnd(text)
