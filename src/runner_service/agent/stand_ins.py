"""Stands in for libraries that LangChain, LangGraph and deepagents import for names alone, and that are 25 MB.

langsmith traces to a service of LangChain's, langgraph_sdk calls LangGraph's server, and requests is there for types of
answers. A stand-in holds the names that are imported from it. Whoever asks it for another one gets that of the real
library, which is then imported in its place.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn


class _Unused(Exception):  # noqa: N818  # errors are caught by their class, so it has to be one
    """Any class or function that is imported and not used."""

    def __new__(cls, *_: object, **__: object) -> NoReturn:
        """Raises RuntimeError."""
        raise RuntimeError("this library is not loaded: see `agent.stand_ins`")


def _no_context(*_: object) -> dict[str, Any]:
    names = ("parent", "project_name", "address", "tags", "metadata", "enabled", "client", "replicas")
    return dict.fromkeys(names)


def _keep_context(**_: object) -> AbstractContextManager[None]:
    return nullcontext()


def _nothing(*_: object) -> None:
    return None


def _unused(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, _Unused)


_LANGSMITH: Mapping[str, Mapping[str, Any]] = {
    "langsmith": {
        **_unused("Client", "RunTree"),
        "get_tracing_context": _no_context,
        "traceable": lambda **_: lambda function: function,
    },
    "langsmith.address": {},
    "langsmith.run_helpers": {
        "_set_tracing_context": _nothing,
        "get_current_run_tree": _nothing,
        "get_tracing_context": _no_context,
        "tracing_context": _keep_context,
    },
    "langsmith.run_trees": {},
    "langsmith.schemas": _unused("AgentEntry", "FileEntry", "SkillEntry"),
    "langsmith.utils": {
        **_unused("LangSmithConflictError", "LangSmithError", "LangSmithNotFoundError", "parse_hub_identifier"),
        "tracing_is_enabled": lambda: False,
    },
}
"""What is asked in every call of a model or tool, so that it stays."""

_OTHERS: Mapping[str, Mapping[str, Any]] = {
    "langgraph_sdk": _unused("get_client", "get_sync_client"),
    "langgraph_sdk.auth": {},
    "langgraph_sdk.auth.types": _unused("BaseUser"),
    "langgraph_sdk.client": _unused("LangGraphClient", "SyncLangGraphClient"),
    "langgraph_sdk.schema": _unused("Interrupt", "Run", "Thread"),
    "requests": _unused("HTTPError", "Response"),
}


class _StandIn(ModuleType):
    """A module that is replaced by the real one as soon as it is asked for what it does not have."""

    def __init__(self, name: str, attributes: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.__path__ = []
        vars(self).update(attributes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove(self.__name__.partition(".")[0])
        return getattr(import_module(self.__name__), name)


@contextmanager
def stand_ins() -> Iterator[None]:
    """Stands in for the libraries inside the block, and for langsmith from then on. Those that are imported stay."""
    for package in ("langsmith", "langgraph_sdk", "requests"):
        if package not in sys.modules and (spec := find_spec(package)):
            _install(package, list(spec.submodule_search_locations or ()))
    try:
        yield
    finally:
        _remove("langgraph_sdk")
        _remove("requests")


def _install(package: str, path: list[str]) -> None:
    for name, attributes in {**_LANGSMITH, **_OTHERS}.items():
        if name.partition(".")[0] == package:
            sys.modules[name] = module = _StandIn(name, attributes)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
    sys.modules[package].__path__ = path  # of modules that there is no stand-in for


def _remove(package: str) -> None:
    for name, module in [*sys.modules.items()]:
        if isinstance(module, _StandIn) and name.partition(".")[0] == package:
            del sys.modules[name]
