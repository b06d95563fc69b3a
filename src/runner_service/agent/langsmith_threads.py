"""Keeps langsmith, which wraps all of LangChain, from hopping between threads although nothing is traced."""

from contextvars import Context
from typing import Any

import langsmith


def run_langsmith_inline() -> None:
    """Makes langsmith run on the event loop what it runs in threads by default."""
    langsmith.set_runtime_overrides(aio_to_thread=_inline)


async def _inline(default: Any, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Replaces the thread hops of langsmith, 15 per step, which happen even with tracing disabled."""
    del default
    return context.run(function, *args, **kwargs)
