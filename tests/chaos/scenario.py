"""The scripted work of every execution of a storm, and the exact texts of its agents.

`{{message}}` is the execution's id, so one script serves all, and every side effect writes its own line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.running import command, turn

OUTPUT_LINES = 150_000
"""Lines that the command with large output writes: about 1 MB."""

LONG_TEXT = " ".join(f"word-{number}" for number in range(150))


def _effect(label: str) -> str:
    return f"echo '{{{{message}}}} {label}' >> effects"


def _task(name: str) -> tuple[str, dict[str, Any]]:
    return ("task", {"description": f"{name} part of {{{{message}}}}", "subagent_type": "general-purpose"})


_RETRIED = {"status": 503, "retry_after": 0, "times": 1, "after_pieces": 3}

_MAIN = [
    turn("First a command for {{message}}.", command(_effect("alone"))),
    turn(
        "Now two at once.",
        command(f"sleep 0.02; {_effect('left')}; echo out"),
        command(f"{_effect('right')}; echo oops >&2; exit 3"),
    ),
    turn(
        "",
        ("write_file", {"file_path": "/{{message}}.txt", "content": "begin\nmark\n"}),
        ("write_todos", {"todos": [{"content": "all of {{message}}", "status": "in_progress"}]}),
        ("ls", {"path": "/"}),
    ),
    turn(
        "A change, and a look at it.",
        ("edit_file", {"file_path": "/{{message}}.txt", "old_string": "mark", "new_string": "mark mark"}),
        ("grep", {"pattern": "begin", "path": "/{{message}}.txt"}),
    ),
    turn("Two helpers for {{message}}.", _task("first"), _task("second")),
    turn("What comes now is much.", command(f"seq {OUTPUT_LINES}; {_effect('much')}"), error=_RETRIED),
    turn("", command(f"sleep 300 & env -i setsid -f sleep 300; {_effect('leaving')}")),
    turn(f"{LONG_TEXT} for {{{{message}}}}", delay=0.001),
]
_SUB_AGENT = [
    turn("I am the helper for the {{message}}.", command(_effect("inside"))),
    turn("", command(f"{_effect('again')}; sleep 0.01; echo done"), command(_effect("besides"))),
    turn("That was the {{message}}.", delay=0.001),
]

SCRIPT: Mapping[str, Any] = {"turns": _MAIN, "sub_agents": [{"turns": _SUB_AGENT}]}

CALLS = sum(len(each.get("tool_calls", [])) for each in _MAIN) + 2 * sum(
    len(each.get("tool_calls", [])) for each in _SUB_AGENT
)
"""Tool calls of one execution."""

EXPECTED_FAILURE = "right"
"""The command that exits with a code other than 0."""


def main_agent_texts(message: str) -> Sequence[str]:
    """The non-empty texts of the main agent, in order."""
    return _texts(_MAIN, message)


def sub_agent_texts(description: str) -> Sequence[str]:
    """The non-empty texts of a sub-agent with this task."""
    return _texts(_SUB_AGENT, description)


def _texts(turns: Sequence[Mapping[str, Any]], message: str) -> Sequence[str]:
    return [each["text"].replace("{{message}}", message) for each in turns if each.get("text")]
