"""The base of the models of all providers."""

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from runner_service.models.answer import current_text_listener, ending
from runner_service.models.endings import Ending
from runner_service.models.failures import StreamBrokenError


class StreamingChatModel(BaseChatModel):
    """A model that streams its text to the current listener (`models.answer`)."""

    async def answer(self, messages: list[BaseMessage], *, stop: list[str] | None = None, **options: Any) -> AIMessage:
        """Makes one call. `options` are those that `bind_tools` binds.

        Raises:
            ProviderError, ConversationTooLongError: the provider sent an error.
            StreamBrokenError: it sent what is no answer, or only a part of one.
            httpx2.RequestError, httpx.RequestError: the connection broke.
        """
        raise NotImplementedError

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Makes one call for LangChain: agents call `answer`, only summaries of conversations are made by this.

        Raises:
            StreamBrokenError: the summary is empty or cut short, too.
        """
        del run_manager  # text goes to the current listener
        message = await self.answer(messages, stop=stop, **kwargs)
        how = ending(message)
        if current_text_listener.get() is None and how is not Ending.ANSWERED:
            raise StreamBrokenError(f"the summary of the conversation was not completed ({how.name.lower()})")
        return ChatResult(generations=[ChatGeneration(message=message)])
