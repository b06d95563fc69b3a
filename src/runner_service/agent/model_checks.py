"""Checks around a model call: the conversation before it, and the answer behind it."""

from typing import Any

from langchain.agents.middleware import ModelRequest
from langchain_core.messages import AIMessage

from runner_service.agent.messages import stop_reason_of
from runner_service.agent.tools.scope import RunScope, sub_agent_id
from runner_service.errors import ModelRejectedEnd
from runner_service.models.answer import ending
from runner_service.models.endings import Ending
from runner_service.models.failures import ConversationTooLongError, Failure, StreamBrokenError
from runner_service.models.history import is_sound, repair, without_images
from runner_service.v1 import execution_event_pb2 as event_pb2

MAX_REASON_CHARACTERS = 500


def repair_request(scope: RunScope, request: ModelRequest[Any]) -> ModelRequest[Any]:
    """Repairs the conversation where that is necessary; publishes each kind of repair once."""
    if is_sound(request.messages):
        return request
    messages, changes = repair(request.messages)
    for change in changes:
        if change not in scope.repairs:
            scope.repairs.add(change)
            publish_warning(scope, "HISTORY_REPAIRED", f"the conversation was repaired before it was sent: {change}")
    return request.override(messages=messages)


def describe_images(scope: RunScope, request: ModelRequest[Any], failure: Failure) -> ModelRequest[Any]:
    """Describes the images of a refused request: most models that refuse one are not given any."""
    text = f"the images in the conversation were left out, since the provider refused it: {failure.text}"
    publish_warning(scope, "IMAGES_LEFT_OUT", scope.run.redactor.text(text))
    return request.override(messages=without_images(request.messages))


def check_usable(message: AIMessage) -> None:
    """Raises StreamBrokenError or ConversationTooLongError for an answer that has to be asked for again."""
    how, stop_reason = ending(message), stop_reason_of(message) or "no reason given"
    if how is Ending.OVERFLOWED:
        raise ConversationTooLongError(
            Failure("overflow", f"the model's context was full before it had answered: {stop_reason}")
        )
    if how is Ending.FAILED:
        raise StreamBrokenError(f"the model gave no answer ({stop_reason})")


def heed_ending(scope: RunScope, message: AIMessage, stop_reason: str) -> None:
    """Acts on the end of an answer that is not to be asked for again. Raises ModelRejectedEnd."""
    match ending(message):
        case Ending.REFUSED:
            words = scope.run.redactor.beginning(message.text.strip(), MAX_REASON_CHARACTERS) or "it gave no reason"
            text = f"the model refused to answer ({stop_reason}): {words}"
            raise ModelRejectedEnd(text, refuses_content=True)
        case Ending.EXHAUSTED:
            raise ModelRejectedEnd(
                f"the model reached its output limit before it answered ({stop_reason}): raise agent.model."
                "max_output_tokens, or choose a model that reasons less"
            )
        case Ending.CUT_SHORT:
            publish_warning(scope, "ANSWER_CUT_SHORT", f"the model stopped before it was done: {stop_reason}")


def publish_warning(scope: RunScope, code: str, text: str) -> None:
    """Publishes a notice of the current agent."""
    notice = event_pb2.Notice(level=event_pb2.Notice.LEVEL_WARNING, code=code, text=text)
    scope.run.events.publish(notice, sub_agent_id=sub_agent_id())
