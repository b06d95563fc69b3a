"""What LangChain, LangGraph and deepagents import of the libraries that `agent.stand_ins` stands in for."""

import json
import subprocess
import sys
from importlib import import_module
from typing import Any

import langsmith
import pytest

from runner_service.agent import stand_ins

_LOAD = "import json, sys\nfrom runner_service.agent.loader import load\nload()\n"


def _printed(code: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    return json.loads(done.stdout)


def test_the_agent_loop_loads_none_of_the_libraries_and_nothing_that_only_they_need() -> None:
    """What is here again is asked for a name that its stand-in does not have: add it."""
    libraries = ["langsmith.client", "langgraph_sdk", "requests", "psutil", "urllib3", "websockets"]
    assert _printed(f"{_LOAD}print(json.dumps([each for each in {libraries} if each in sys.modules]))") == []


def test_whoever_wants_more_than_a_stand_in_has_gets_the_real_library() -> None:
    real = _printed(
        f"{_LOAD}"
        "import langsmith, langsmith.sandbox, requests\n"
        "from langsmith.utils import get_env_var\n"
        "from langgraph_sdk import get_client\n"
        "things = langsmith.Client, langsmith.sandbox.SandboxClient, get_env_var, get_client, requests.HTTPError\n"
        "print(json.dumps([each.__module__.partition('.')[0] for each in things]))"
    )
    assert real == ["langsmith", "langsmith", "langsmith", "langgraph_sdk", "requests"]


def test_a_library_that_is_there_already_stays() -> None:
    with stand_ins.stand_ins():
        assert sys.modules["langsmith"] is langsmith


@pytest.mark.parametrize("module", [*stand_ins._LANGSMITH, *stand_ins._OTHERS])
def test_a_stand_in_has_names_of_the_real_library(module: str) -> None:
    names = {**stand_ins._LANGSMITH, **stand_ins._OTHERS}[module]
    assert [name for name in names if not hasattr(import_module(module), name)] == []


def test_langsmiths_context_has_the_names_that_the_stand_in_gives() -> None:
    assert stand_ins._no_context().keys() >= langsmith.get_tracing_context().keys() - {"distributed_parent_id"}
    assert langsmith.utils.tracing_is_enabled() is False


def test_what_is_imported_and_not_used_says_so_when_it_is() -> None:
    with pytest.raises(RuntimeError, match="not loaded"):
        stand_ins._Unused("anything")
