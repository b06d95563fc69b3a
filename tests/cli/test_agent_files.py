"""Agents as files: what they may hold, what is wrong with them, and the examples at work."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.command_line import CommandLine, local_environ

from runner_service.cli.agent_file import mcp_server, read_agent_file, read_skill
from runner_service.cli.errors import CommandError
from runner_service.v1 import agent_runner_pb2 as runner_pb2

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples" / "agents").glob("*.yaml"))


def write(directory: Path, text: str) -> Path:
    file = directory / "agent.yaml"
    file.write_text(text)
    return file


def test_a_file_has_the_shape_of_the_proto(tmp_path: Path) -> None:
    (tmp_path / "instructions.md").write_text("Be brief.")
    file = write(
        tmp_path,
        """
name: tester
instructions: "@instructions.md"
model: {provider: openai, name: gpt-x, temperature: 0.5, max_output_tokens: 1_000}
mcp_servers:
  - name: web
    http: {url: "http://localhost", headers: {a: b}, timeout: 1.5}
    enabled_tools: [one, two]
sub_agents:
  - name: helper
    tool_selections: {web: {enabled_tools: [one]}}
limits: {timeout: 10m, max_tool_calls: 7}
""",
    )
    agent, limits = read_agent_file(file)
    expected = runner_pb2.Agent(
        name="tester",
        instructions="Be brief.",
        model=runner_pb2.Model(provider="openai", name="gpt-x", temperature=0.5, max_output_tokens=1000),
        mcp_servers=[
            runner_pb2.McpServer(
                name="web",
                http=runner_pb2.HttpServer(url="http://localhost", headers={"a": "b"}),
                enabled_tools=["one", "two"],
            )
        ],
        sub_agents=[
            runner_pb2.SubAgent(name="helper", tool_selections={"web": runner_pb2.ToolSelection(enabled_tools=["one"])})
        ],
    )
    expected.mcp_servers[0].http.timeout.FromMilliseconds(1500)
    assert agent == expected
    assert limits.timeout.seconds == 600
    assert limits.max_tool_calls == 7


def test_a_model_may_be_a_text_and_the_name_is_that_of_the_file(tmp_path: Path) -> None:
    agent, _ = read_agent_file(write(tmp_path, "model: claude-sonnet-4.5"))
    assert agent.name == "agent"
    assert agent.model == runner_pb2.Model(provider="anthropic", name="claude-sonnet-4.5")


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("name: a\ninstuctions: b", 2, "the agent has no field instuctions; did you mean instructions?"),
        ("name: a\nname: b", 2, "name is there twice"),
        ("model:\n  temperature: hot", 2, "temperature must be a number, not 'hot'"),
        ("limits:\n  max_tool_calls: many", 2, "max_tool_calls must be a whole number"),
        ("limits:\n  timeout: soon", 2, "timeout must be a duration, such as 90s, 10m or 1h"),
        ("limits: 3", 1, "limits must be a mapping"),
        ("skills:\n  - nowhere", 2, "SKILL.md or a file beside it cannot be read"),
        ("skills:\n  - archive: x", 2, "archive cannot be written in a file"),
        ("instructions: '@nowhere'", 1, "nowhere cannot be read"),
        ("mcp_servers: {}", 1, "mcp_servers must be a list"),
        ("mcp_servers:\n  - name: [a]", 2, "name must be a single value"),
        ("model: frobnicator", 1, "it is not known whose model this is"),
        ("a: [", 1, "expected the node content"),
        ("- a", 1, "the agent must be a mapping"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(CommandError) as error:
        read_agent_file(file)
    assert error.value.message.startswith(f"{file}:{line}: ")
    assert problem in error.value.message


def test_a_skill_is_a_directory_and_the_same_one_makes_the_same_request(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "SKILL.md").write_text("---\nname: counting\n---\nCount.")
    (tmp_path / "scripts" / "count.sh").write_text("echo 1")
    skill = read_skill(tmp_path)
    assert skill.name == "counting"
    assert skill.archive
    (tmp_path / "scripts" / "count.sh").touch()
    assert read_skill(tmp_path) == skill


def test_an_mcp_server_is_a_command_or_a_url() -> None:
    server = mcp_server("/usr/bin/mcp-server-git --repository 'my work'")
    assert server.name == "mcp-server-git"
    assert list(server.stdio.args) == ["--repository", "my work"]
    assert mcp_server("https://mcp.example.com/v1").http.url == "https://mcp.example.com/v1"
    assert mcp_server("https://mcp.example.com/v1").name == "mcp.example.com"


def test_the_schema_for_editors_knows_every_field_of_the_examples() -> None:
    schema = json.loads((ROOT / "docs" / "agent.schema.json").read_text())

    def check(value: Any, described: Any) -> None:
        if "$ref" in described:
            described = schema["$defs"][described["$ref"].rpartition("/")[2]]
        if isinstance(value, dict) and "properties" in described:
            for name, inner in value.items():
                check(inner, described["properties"][name])
        if isinstance(value, list):
            for item in value:
                check(item, described["items"])

    for example in EXAMPLES:
        check(yaml.safe_load(example.read_text()), schema)


SCRIPTS: dict[str, dict[str, Any]] = {
    "historian": {
        "turns": [
            {"tool_calls": [{"name": "git_log", "args": {"repo_path": ".", "max_count": 1}}]},
            {"text": "The tool said: {{last_tool_result}}"},
        ]
    },
    "release-manager": {
        "turns": [
            {
                "tool_calls": [
                    {"name": "execute", "args": {"command": "sh bin/skills/*/changes.sh"}},
                    {"name": "get_current_time", "args": {"timezone": "UTC"}},
                ]
            },
            {"text": "The clock said: {{last_tool_result}}"},
        ]
    },
    "reviewer": {
        "turns": [
            {
                "tool_calls": [
                    {"name": "task", "args": {"subagent_type": name, "description": "Look."}}
                    for name in ("reader", "tester")
                ]
            },
            {"text": "Findings: {{last_tool_result}}"},
        ],
        "sub_agents": [{"name": name, "turns": [{"text": f"the {name} saw it"}]} for name in ("reader", "tester")],
    },
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_work(tmp_path: Path, example: Path) -> None:
    shell = CommandLine(tmp_path, local_environ(tmp_path, SCRIPTS[example.stem]))
    shell.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    repository = tmp_path / "repository"
    for command in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "mend the parser")):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        repository.mkdir(exist_ok=True)
        subprocess.run(["git", *identity, *command], cwd=repository, check=True)
    options = ("--agent", str(example), "--root", str(repository), "--model", "scripted")
    done = shell("run", *options, "go")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout
    expected = {"historian": "mend the parser", "release-manager": "mend the parser", "reviewer": "the tester saw it"}
    assert expected[example.stem] in done.stdout
    if example.stem == "release-manager":
        assert "UTC" in done.stdout.partition("The clock said: ")[2]


def test_skills_and_servers_of_the_command_line_are_added_to_the_agent(tmp_path: Path) -> None:
    turns = [
        {"tool_calls": [{"name": "get_current_time", "args": {"timezone": "UTC"}}]},
        {"text": "Skills: "},
    ]
    shell = CommandLine(tmp_path, local_environ(tmp_path, {"turns": turns}))
    shell.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    skill, server = str(ROOT / "examples" / "agents" / "release-notes"), "mcp-server-time --local-timezone UTC"
    done = shell("run", "--skill", skill, "--mcp", server, "--mcp", server, "go")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1] = done" in done.stdout
    (installed,) = (tmp_path / "workspace" / "bin" / "skills").iterdir()
    assert (installed / "changes.sh").exists()
