"""What is used of a library beyond its documented interface is in one module, which these tables name.

When a library moves, only that module changes, and the test of its name says what has moved.
"""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "runner_service"

ONLY_IN = {
    "langchain_openai": {"models/openai.py"},
    "langchain_anthropic": {"models/anthropic.py"},
    "anthropic": {"models/anthropic.py"},
    "langchain_ollama": {"models/ollama.py"},
    "openai": {"models/openai.py"},
    "langchain.agents.factory": {"agent/factory_overrides.py"},
    "langchain.agents.middleware.TodoListMiddleware": {"agent/middleware.py"},
    "deepagents.middleware.summarization": {"agent/middleware.py"},
    "deepagents.middleware.unsupported_content": {"agent/middleware.py"},
    "deepagents.middleware.filesystem": {"agent/filesystem_middleware.py"},
    "deepagents.graph": {"agent/message_list.py"},
    "langgraph.channels": {"agent/message_list.py"},
    "langgraph.checkpoint.sqlite": {"storage/sqlite/checkpoints.py"},
    "langgraph.checkpoint.serde.jsonplus": {"storage/state_serializer.py"},
    "mcp.client": {"agent/mcp/http.py"},
    "redis.crc": {"storage/redis/cluster.py"},
    "httpcore": {"agent/mcp/egress.py"},
    "grpc_status": {"api/error_details.py", "client/errors.py"},
    "google.rpc": {"api/error_details.py", "client/errors.py"},
}
"""By library, or the part of it that is used in such a way: the modules that may import it, when they run."""

PRIVATE = {
    "models/openai.py": {"_get_request_payload"},
    "models/anthropic.py": {"_get_request_payload", "_client_params"},
    "models/ollama.py": {"_chat_params", "_async_client", "_client"},
    "executors/daytona/sdk.py": {"_init_otel", "_target"},
    "agent/factory_overrides.py": {"_patch_invalid_tool_calls"},
    "agent/middleware.py": {
        "_filter_message",
        *("_truncate_args", "_should_truncate_args", "_determine_truncate_cutoff_index", "_truncate_tool_call"),
    },
    "agent/filesystem_middleware.py": {"_check_eviction_needed"},
    "agent/mcp/connections.py": {"_validate_tool_result"},
    "agent/mcp/tools.py": {"_to_args_and_kwargs"},
    "storage/redis/offloaded_files.py": {"_read_files", "_send_files_update"},
    "agent/mcp/egress.py": {"_pool"},
}
"""By module: the private names of a library that it uses, each with a test beside this one."""

EXTENSION_POINTS = {"_generate", "_agenerate", "_llm_type", "_run", "_arun"}
"""Private names that LangChain documents for subclasses of its models and tools."""


def imports(path: Path) -> Iterator[str]:
    """Modules that are imported when the code runs, not for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def test_each_library_is_used_in_its_place_alone() -> None:
    strays = {
        f"{path.relative_to(SOURCE)} imports {name}; move what it needs to {sorted(places)}"
        for path in SOURCE.rglob("*.py")
        for name in imports(path)
        for library, places in ONLY_IN.items()
        if (name == library or name.startswith(f"{library}."))
        if str(path.relative_to(SOURCE)) not in places
    }
    assert sorted(strays) == []


def test_the_tables_name_what_is_there() -> None:
    for library, places in ONLY_IN.items():
        for place in places:
            assert any(name == library or name.startswith(f"{library}.") for name in imports(SOURCE / place)), (
                f"{place} does not import {library} any more"
            )
    for place, names in PRIVATE.items():
        text = (SOURCE / place).read_text()
        assert {name for name in names if name not in text} == set(), f"{place} does not use these any more"


def test_no_module_imports_what_a_library_calls_private() -> None:
    strays = {
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in SOURCE.rglob("*.py")
        if not path.is_relative_to(SOURCE / "v1") and not path.is_relative_to(SOURCE / "stigmer" / "wire")
        for name in imports(path)
        if name.partition(".")[0] not in {"runner_service", *sys.stdlib_module_names}
        if any(part.startswith("_") for part in name.split("."))
    }
    assert sorted(strays) == []


def test_private_members_of_a_library_are_used_where_the_table_says() -> None:
    """The linter asks for a reason wherever a private member of another object is used; those of ours are our own."""
    ours = {"stigmer/status.py", "changes/tracker.py"}
    places = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if "noqa: SLF001" in path.read_text()}
    assert places - ours <= PRIVATE.keys()


def private_names(path: Path) -> dict[str, set[str]]:
    """By class that has parents: the private names that it defines, or uses of itself or others."""
    names: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and node.bases:
            used = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
            used |= {each.name for each in ast.walk(node) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
            names[node.name] = {name for name in used if re.fullmatch(r"_[^_].*", name)} - EXTENSION_POINTS
    return {name: private for name, private in names.items() if private}


def test_private_names_of_a_librarys_class_are_used_by_ours_where_the_table_says() -> None:
    strays = set()
    for path in SOURCE.rglob("*.py"):
        place = path.relative_to(SOURCE)
        if place.parts[0] == "v1" or "wire" in place.parts or not (names := private_names(path)):
            continue
        module = importlib.import_module(".".join(("runner_service", *place.with_suffix("").parts)))
        for name, private in names.items():
            for parent in getattr(vars(module).get(name), "__mro__", ()):
                if parent.__module__.partition(".")[0] not in {"runner_service", *sys.stdlib_module_names}:
                    known = PRIVATE.get(str(place), set())
                    strays |= {f"{place}: {each}" for each in private & vars(parent).keys() - known}
    assert not strays, "\n".join(sorted(strays))
