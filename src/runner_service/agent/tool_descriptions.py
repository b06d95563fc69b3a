"""Tool descriptions for the model, short since every call pays for them.

docs/prompt.md lists what each part of the first prompt costs; `tests/agent/test_prompt_size.py` holds it to that.
"""

import weakref
from collections.abc import Sequence
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

DESCRIPTIONS = {
    "execute": (
        "Runs a shell command in the working directory and returns what it wrote to stdout and stderr, as it came, and "
        "its exit code. Nothing can be typed into it. Processes that it leaves in the background go on until the whole "
        "task ends. Of a long output you see the beginning and the end, and are told where to read the rest."
    ),
    "ls": "Lists a directory.",
    "read_file": (
        "Reads a text file by lines, the first 100 unless `offset` and `limit` say otherwise. A header line "
        "`@@ … @@` says which lines follow; it is not part of the file. Read a file before you edit it. What commands "
        "wrote is below /tool_output."
    ),
    "write_file": "Writes a whole file, new or in place of an old one. To change a part of a file use edit_file.",
    "edit_file": (
        "Replaces a text in a file that you have read. `old_string` has to match exactly, indentation included, and "
        "occur once, unless `replace_all` is true."
    ),
    "glob": (
        "Finds files by name: `*`, `**`, `?`, `[abc]`, `{a,b}`. A pattern without `/` matches in every directory "
        "below `path`, one with `/` the path below it. Names that begin with a dot only match a pattern that does."
    ),
    "grep": (
        "Finds a literal text in files; for regular expressions run `rg` with execute. `output_mode` is "
        "files_with_matches, content (with line numbers) or count."
    ),
    "write_todos": (
        "Shows the user your plan for a task of three or more steps: the whole list each time, with the step that you "
        "work on in_progress, and each one completed as soon as it is done. Not for simpler tasks, and never twice in "
        "one message. The plan is no answer: after it, still say what the user wants to know."
    ),
}

_TASK = (
    "Gives a task to a sub-agent, which sees nothing but `description`, works on its own, and reports once, to you "
    "alone: say all that it needs to know and what to report. Independent tasks: several calls in one message.\n"
)
_AGENTS_BEGIN, _AGENTS_END = "have access to:\n", "\n\nSpecify subagent_type"
_PARAMETERS = {
    ("glob", "pattern"): "Such as *.py, src/**/*.ts",
    ("glob", "path"): "Where to search. Default: the root",
    ("grep", "pattern"): "Literal text",
    ("grep", "path"): "Where to search. Default: the working directory",
    ("grep", "glob"): "Only files with such names, such as *.py",
    ("grep", "output_mode"): "Default: files_with_matches",
    ("grep", "max_count"): "At most so many matches",
    ("task", "description"): "The whole task",
    ("task", "subagent_type"): "Which agent",
    ("edit_file", "old_string"): "What to replace",
    ("edit_file", "new_string"): "What to put there",
    ("edit_file", "replace_all"): "Every occurrence",
    ("edit_file", "file_path"): "Absolute path",
    ("write_file", "file_path"): "Absolute path",
    ("write_file", "content"): "The content",
    ("read_file", "file_path"): "Absolute path",
    ("read_file", "offset"): "First line, from 0",
    ("read_file", "limit"): "How many lines",
    ("ls", "path"): "Absolute path",
    ("execute", "command"): "Shell command",
    ("execute", "timeout"): "Seconds; the user's own limit holds as well",
}


def with_short_texts(tools: Sequence[BaseTool | dict[str, Any]]) -> list[BaseTool | dict[str, Any]]:
    """Returns the tools as models are offered them. Tools of MCP servers and of providers stay as they are."""
    return [_shortened(each) if isinstance(each, BaseTool) and _is_ours(each) else each for each in tools]


def _is_ours(tool: BaseTool) -> bool:
    return tool.name == "task" or tool.name in DESCRIPTIONS


_definitions: dict[int, dict[str, Any]] = {}
"""By the identity of a tool. None is kept alive by this: a `task` tool holds the graphs of its agents."""


def _shortened(tool: BaseTool) -> dict[str, Any]:
    if id(tool) not in _definitions:
        _definitions[id(tool)] = _short_definition(tool)
        weakref.finalize(tool, _definitions.pop, id(tool), None).atexit = False
    return _definitions[id(tool)]


def _short_definition(tool: BaseTool) -> dict[str, Any]:
    definition = convert_to_openai_tool(tool)
    function = definition["function"]
    function["description"] = _task_text(tool.description) if tool.name == "task" else DESCRIPTIONS[tool.name]
    for name, schema in function["parameters"].get("properties", {}).items():
        if text := _PARAMETERS.get((tool.name, name)):
            schema["description"] = text
        if schema.get("default", 0) is None:
            del schema["default"]
    return definition


def _task_text(description: str) -> str:
    """Returns our text with the list of agents from that of the library."""
    before, marker, after = description.partition(_AGENTS_BEGIN)
    agents, end, _ = after.rpartition(_AGENTS_END)
    return _TASK + agents if before and marker and end else description
