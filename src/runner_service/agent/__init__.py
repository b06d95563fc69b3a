"""The agent loop, on deepagents. Its libraries are heavy: `load` imports them, in a thread, once calls can be taken."""

import gc
import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner_service.agent.harness import AgentHarness

_TRACING_TO_OTHERS = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")
"""Variables by which LangChain would send whole prompts to a service of its maker."""

_BRISK_SWITCH_SECONDS = 0.0005
_GC_THRESHOLDS = (50_000, 50, 100)

OpenHarness = Callable[[Path], AbstractAsyncContextManager["AgentHarness"]]


def load() -> OpenHarness:
    """Imports the agent loop and returns `agent_harness`. Takes about a second: belongs in a thread.

    Meanwhile the event loop goes on with stalls of a few milliseconds: the thread gives way often, and no garbage
    collection walks over what is being imported. Afterwards what was imported is exempt from collections for good.
    """
    for variable in _TRACING_TO_OTHERS:
        os.environ[variable] = "false"
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_BRISK_SWITCH_SECONDS)
    gc.disable()
    try:
        from runner_service.agent.harness import agent_harness, warm_up  # noqa: PLC0415  # this is what takes a second

        warm_up()
    finally:
        gc.freeze()  # before it is enabled, or the first collection would walk over all of it
        gc.set_threshold(*_GC_THRESHOLDS)
        gc.enable()
        sys.setswitchinterval(interval)
    return agent_harness
