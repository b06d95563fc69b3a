"""Cache of model clients, created in a thread and shared by executions."""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from runner_service.models import ModelChoice
from runner_service.models.chat_model import StreamingChatModel
from runner_service.models.connections import Connections, shared_connections

_MAX_CACHED_MODELS = 64


class ModelClients:
    """LRU cache of model clients. Constructed by `model_clients`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._models: OrderedDict[ModelChoice, StreamingChatModel] = OrderedDict()
        self._lock = asyncio.Lock()

    async def chat_model(self, choice: ModelChoice) -> StreamingChatModel:
        """Returns the client of a model. It streams, and does not retry.

        Raises:
            ModelRejectedEnd: the script of the scripted model is invalid.
        """
        async with self._lock:
            if choice not in self._models:
                self._models[choice] = await asyncio.to_thread(_make, choice, self._connections)
            self._models.move_to_end(choice)
            if len(self._models) > _MAX_CACHED_MODELS:
                self._models.popitem(last=False)
            return self._models[choice]


def retirement_date(choice: ModelChoice) -> str:
    """Returns the day on which the provider retires the model; empty if unknown.

    The model's client must exist.
    """
    provider = sys.modules[f"runner_service.models.{choice.provider}"]
    day: str = getattr(provider, "retirement_date", lambda _: "")(choice.name)
    return day


@asynccontextmanager
async def model_clients() -> AsyncIterator[ModelClients]:
    """Opens the clients; their connections are closed at the end."""
    async with shared_connections() as connections:
        yield ModelClients(connections)


def _make(choice: ModelChoice, connections: Connections) -> StreamingChatModel:
    # A provider's package takes up to 1.5 s to import.
    model: StreamingChatModel = import_module(f"runner_service.models.{choice.provider}").make_model(
        choice, connections
    )
    return model
