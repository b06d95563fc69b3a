"""A tool call as text is recognised, and nothing else."""

import pytest

from runner_service.agent.calls_as_text import call_written_as_text

TOOLS = {"execute", "ls"}


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "execute", "arguments": {"command": "ls"}}',
        '  ```json\n{"name": "execute", "arguments": {}}\n```\n',
        '<tool_call>\n{"name": "execute", "parameters": {"command": "a\nb"}}\n</tool_call>',
        '[{"name": "execute", "arguments": "{}"}]',
        '{"type": "function", "function": {"name": "execute", "arguments": {}}}',
        '{"tool": "execute", "args": {}}',
    ],
)
def test_a_message_of_nothing_but_a_call_is_one(text: str) -> None:
    assert call_written_as_text(text, TOOLS) == "execute"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I would call execute.",
        'Here is an example: {"name": "execute", "arguments": {}}',
        '{"name": "deploy", "arguments": {}}',
        '{"name": "execute"}',
        '{"name": ["execute"], "arguments": {}}',
        "[]",
        "[1]",
        "{" * 5000 + "}" * 5000,
        '{"name": "execute", "arguments": {}} ' * 10_000,
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert call_written_as_text(text, TOOLS) == ""
