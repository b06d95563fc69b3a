"""Maps failures of providers and of the storage to ends of the execution."""

from runner_service.agent.interface import AgentRun
from runner_service.errors import ExecutionEnd, LogUnavailableEnd, ModelRejectedEnd, ModelUnavailableEnd
from runner_service.models.failures import classify
from runner_service.storage.event_log import LogError


def end_for(error: BaseException, run: AgentRun) -> ExecutionEnd | None:
    """Returns the end for a failure of a provider or of the storage; None for any other error, a defect."""
    if isinstance(error, ExecutionEnd):
        return error
    if isinstance(error, LogError):
        return LogUnavailableEnd(error.message)
    failure = classify(error)
    if failure is None:
        return None
    text = run.redactor.text(failure.text)
    if failure.kind == "transient":
        return ModelUnavailableEnd(text)
    return ModelRejectedEnd(text, refuses_content=failure.refuses_content)
