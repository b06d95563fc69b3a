"""Skills, MCP servers and sub-agents, inline in a request."""

import os
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from tests.agent.capabilities import agent, notices, results, stdio, zip_archive
from tests.running import Client, StartService, command, holding, kinds, one, stdout_of, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


async def test_a_skill_is_in_the_prompt_and_its_files_are_where_it_says(start: StartService, tmp_path: Path) -> None:
    files = zip_archive(
        {"scripts/hello.sh": b"#!/bin/sh\necho hello from $0\n", "data.txt": b"data", "SKILL.md": b"old"},
        modes={"data.txt": 0o100644},
    )
    skill = runner_pb2.Skill(name="greeting", version="v-1", content="# Greeting\nRun hello.sh.", archive=files)
    client = await start(
        [turn("", command("cd bin/skills/v-1 && scripts/hello.sh && cat data.txt SKILL.md")), turn("Ok.")]
    )

    events = await client.execute(agent=agent(skills=[skill]))

    assert stdout_of(events) == b"hello from scripts/hello.sh\ndata# Greeting\nRun hello.sh."
    assert not os.access(tmp_path / "workspace/bin/skills/v-1/data.txt", os.X_OK)
    assert not notices(events)


async def test_a_skill_that_is_not_safe_to_unpack_has_only_its_text(start: StartService, tmp_path: Path) -> None:
    skill = runner_pb2.Skill(name="evil", version="v-1", content="text", archive=zip_archive({"../../evil.sh": b"boo"}))
    client = await start([turn("", command("ls -A bin/skills/v-1")), turn("Ok.")])

    events = await client.execute(agent=agent(skills=[skill]))

    assert stdout_of(events) == b"SKILL.md\n"
    [(code, text)] = notices(events)
    assert code == "SKILL_FILES_MISSING"
    assert "would land outside" in text
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if name == "evil.sh"]


@pytest.mark.parametrize("broken", ["deflate", "name"])
async def test_a_skill_with_a_broken_archive_has_only_its_text(start: StartService, broken: str) -> None:
    data = zip_archive({"." if broken == "name" else "a.txt": bytes(range(256)) * 20})
    if broken == "deflate":
        data = data[:60] + b"\xff" * 100 + data[160:]
    client = await start([turn("", command("ls -A bin/skills/v-1")), turn("Ok.")])

    skill = runner_pb2.Skill(name="broken", version="v-1", content="text", archive=data)
    events = await client.execute(agent=agent(skills=[skill]))

    assert stdout_of(events) == b"SKILL.md\n"
    assert [code for code, _ in notices(events)] == ["SKILL_FILES_MISSING"]


async def test_a_skill_without_a_version_is_named_by_its_content(start: StartService) -> None:
    client = await start([turn("", command("ls bin/skills | tr -d '\\n' | wc -c")), turn("Ok.")])

    assert stdout_of(await client.execute(agent=agent(skills=[runner_pb2.Skill(name="a", content="b")]))) == b"32\n"


async def test_tools_of_an_mcp_server_work(start: StartService) -> None:
    client = await start([turn("", ("add", {"a": 1, "b": 2})), turn("It is {{last_tool_result}}.")])

    events = await client.execute(agent=agent(mcp_servers=[stdio()]))

    assert results(events) == ["the sum is 3"]
    assert one(events, "tool_call_started").kind == event_pb2.TOOL_KIND_OTHER
    assert not notices(events)


async def test_an_mcp_server_runs_in_the_sandbox_and_ends_with_the_execution(
    start: StartService, tmp_path: Path
) -> None:
    client = await start([turn("", ("where", {})), turn("Ok.")])

    pid, directory = results(await client.execute(agent=agent(mcp_servers=[stdio()])))[0].split(" ", 1)

    assert directory == str(tmp_path / "workspace")
    assert not psutil.pid_exists(int(pid)), psutil.Process(int(pid)).status()


async def test_variables_of_an_mcp_server_are_filled_in_and_their_secrets_redacted(start: StartService) -> None:
    server = stdio(environment={"TOKEN": "Bearer ${KEY}", "PLAIN": "a 'b' \"c\" $KEY `d`"})
    client = await start([turn("", ("variable", {"name": "TOKEN"}), ("variable", {"name": "PLAIN"})), turn("Ok.")])
    environment = {"KEY": runner_pb2.EnvironmentValue(value="s3cret 'value", is_secret=True)}

    events = await client.execute(agent=agent(mcp_servers=[server]), environment=environment)

    assert sorted(results(events)) == ["PLAIN=a 'b' \"c\" $KEY `d`", "TOKEN=Bearer [redacted:secret]"]


async def test_only_enabled_tools_can_be_called(start: StartService) -> None:
    client = await start([turn("", ("add", {"a": 1, "b": 2})), turn("", ("where", {})), turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[stdio(enabled_tools=["add", "fly"])]))

    assert results(events)[0] == "the sum is 3"
    assert "where is not a valid tool" in results(events)[1]
    assert notices(events) == [("MCP_TOOL_UNKNOWN", "MCP server test has no tool fly")]


async def test_a_tool_whose_name_is_taken_carries_the_name_of_its_server(start: StartService) -> None:
    client = await start([turn("", ("my_box_execute", {"command": "x"})), turn("Ok.")])

    assert results(await client.execute(agent=agent(mcp_servers=[stdio(name="my.box")]))) == ["not run: x"]


async def test_a_tool_that_fails_is_told_to_the_model(start: StartService) -> None:
    client = await start([turn("", ("fail", {})), turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[stdio()]))

    assert "this went wrong" in results(events)[0]
    assert one(events, "tool_call_finished").outcome == event_pb2.TOOL_OUTCOME_FAILED
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_a_server_that_dies_in_a_call_is_a_failed_call(start: StartService) -> None:
    client = await start([turn("", ("die", {})), turn("", ("add", {"a": 1, "b": 1})), turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[stdio()]))

    assert "MCP server test failed: it ended with exit code 3; it said: " in results(events)[0]
    assert "farewell" in results(events)[0]
    assert "MCP server test failed" in results(events)[1]
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_a_call_that_hangs_runs_into_the_time_of_a_command(start: StartService) -> None:
    limits = runner_pb2.ExecutionLimits()
    limits.command_timeout.FromMilliseconds(500)
    client = await start([turn("", ("hang", {})), turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[stdio()]), limits=limits)

    assert "no answer within 0.5 s" in results(events)[0]
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_a_server_that_does_not_start_is_a_notice(start: StartService) -> None:
    missing = runner_pb2.McpServer(name="gone", stdio=runner_pb2.StdioServer(command="no-such-program"))
    client = await start([turn("", command("echo works")), turn("Ok.")])
    environment = {"KEY": runner_pb2.EnvironmentValue(value="s3cret-value", is_secret=True)}

    events = await client.execute(
        agent=agent(mcp_servers=[stdio("refuses", name="strict"), missing]), environment=environment
    )

    told = dict(text.split(" cannot", 1) for code, text in notices(events) if code == "MCP_SERVER_UNAVAILABLE")
    assert "no licence for [redacted:secret]" in told["MCP server strict"]
    assert "it needs no-such-program, which is not installed" in told["MCP server gone"]
    assert stdout_of(events) == b"works\n"


async def test_a_server_in_a_container_says_that_it_needs_docker_where_there_is_none(
    start: StartService, tmp_path: Path
) -> None:
    server = runner_pb2.StdioServer(command="docker", args=["run", "-i", "mcp/time"], environment={"PATH": "${EMPTY}"})
    client = await start([turn("Ok.")])

    events = await client.execute(
        agent=agent(mcp_servers=[runner_pb2.McpServer(name="boxed", stdio=server)]),
        environment={"EMPTY": runner_pb2.EnvironmentValue(value=str(tmp_path))},
    )

    [(code, text)] = notices(events)
    assert code == "MCP_SERVER_UNAVAILABLE"
    assert "it needs docker, which is not installed where the agent's commands run" in text


async def test_a_server_that_reads_no_further_is_a_failed_call(start: StartService) -> None:
    client = await start([turn("", ("deaf", {})), turn("", ("add", {"a": 1, "b": 1})), turn("Ok.")])
    limits = runner_pb2.ExecutionLimits()
    limits.command_timeout.FromMilliseconds(500)

    events = await client.execute(agent=agent(mcp_servers=[stdio()]), limits=limits)

    assert "MCP server test failed" in results(events)[1]
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_an_answer_without_end_is_a_failed_call(start: StartService) -> None:
    client = await start([turn("", ("flood", {})), turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[stdio()]))

    assert "it sent a message of more than 8,388,608 bytes" in results(events)[0]
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_large_messages_go_both_ways(start: StartService) -> None:
    text = "x" * 1_000_000
    client = await start([turn("", ("length", {"text": text, "more": text})), turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[stdio()]))

    assert results(events) == ["2000000 characters"]


async def test_text_of_all_kinds_goes_both_ways(start: StartService) -> None:
    text = 'é 漢字 🦊 \u2028 \\ud800 " \n\0'
    client = await start([turn("", ("variable", {"name": text})), turn("Ok.")])

    assert results(await client.execute(agent=agent(mcp_servers=[stdio()]))) == [f"{text}="]


async def test_no_part_of_a_secret_is_in_what_is_kept_of_a_complaint(start: StartService) -> None:
    secret = "a" * 1990 + "the-end-of-the-secret"
    client = await start([turn("Ok.")])

    events = await client.execute(
        agent=agent(mcp_servers=[stdio("complains")]),
        environment={"KEY": runner_pb2.EnvironmentValue(value=secret, is_secret=True)},
    )

    [(_, text)] = notices(events)
    assert "it said:" in text
    assert "the-end" not in text
    assert "aaa" not in text


async def test_what_a_tool_adds_for_programs_is_kept_without_secrets(start: StartService, tmp_path: Path) -> None:
    client = await start([turn("", ("structured", {"name": "KEY"})), turn("Ok.")])

    await client.execute(
        agent=agent(mcp_servers=[stdio()]),
        environment={"KEY": runner_pb2.EnvironmentValue(value="s3cret-value", is_secret=True)},
    )

    assert holding(tmp_path / "state", "structured")
    assert not holding(tmp_path / "state", "s3cret-value")


async def test_a_server_that_says_nothing_holds_nobody_up_for_long(start: StartService) -> None:
    client = await start([turn("Ok.")], MCP_START_TIMEOUT="1")

    events = await client.execute(agent=agent(mcp_servers=[stdio("silent")]))

    assert notices(events) == [("MCP_SERVER_UNAVAILABLE", "MCP server test cannot be used: no answer within 1 s")]


async def test_a_server_is_reached_by_http_with_headers_and_query(start: StartService, unused_tcp_port: int) -> None:
    seen: list[tuple[str, str]] = []
    async with _recording_proxy(unused_tcp_port, seen) as url:
        http = runner_pb2.HttpServer(url=f"{url}/mcp", headers={"X-Key": "key ${KEY}"}, query={"tenant": "${KEY}"})
        client = await start([turn("", ("add", {"a": 20, "b": 22})), turn("Ok.")])
        environment = {"KEY": runner_pb2.EnvironmentValue(value="s3cret-value", is_secret=True)}

        events = await client.execute(
            agent=agent(mcp_servers=[runner_pb2.McpServer(name="web", http=http)]), environment=environment
        )

    assert results(events) == ["the sum is 42"]
    assert ("/mcp?tenant=s3cret-value", "key s3cret-value") in seen


async def test_an_http_server_that_is_gone_is_a_notice(start: StartService, unused_tcp_port: int) -> None:
    http = runner_pb2.HttpServer(url=f"http://127.0.0.1:{unused_tcp_port}/mcp")
    client = await start([turn("Ok.")])

    events = await client.execute(agent=agent(mcp_servers=[runner_pb2.McpServer(name="web", http=http)]))

    assert [code for code, _ in notices(events)] == ["MCP_SERVER_UNAVAILABLE"]
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_a_sub_agent_has_its_own_instructions_tools_and_skills(start: StartService) -> None:
    skill = runner_pb2.Skill(name="sums", version="v-sums", content="How to add.")
    sub_agent = runner_pb2.SubAgent(
        name="adder",
        description="Adds.",
        instructions="You add.",
        mcp_servers=["test"],
        tool_selections={"test": runner_pb2.ToolSelection(enabled_tools=["add"])},
        skills=[skill],
    )
    turns = {
        "turns": [turn("", ("task", {"description": "add", "subagent_type": "adder"})), turn("{{last_tool_result}}")],
        "sub_agents": [
            {
                "name": "adder",
                "turns": [
                    turn("", ("add", {"a": 2, "b": 2}), ("where", {}), command("cat bin/skills/v-sums/SKILL.md")),
                    turn("Four."),
                ],
            }
        ],
    }
    client = await start(turns)

    events = await client.execute(agent=agent(mcp_servers=[stdio()], sub_agents=[sub_agent]))

    task = next(event.tool_call_started.tool_call_id for event in events if event.tool_call_started.name == "task")
    inside = [event for event in events if event.sub_agent_id == task]
    assert one(events, "sub_agent_started").name == "adder"
    assert "the sum is 4" in results(inside)
    assert [text for text in results(inside) if "where is not a valid tool" in text]
    assert stdout_of(inside) == b"How to add."
    assert one(events, "finished").output == "Four."
    assert kinds(events).count("sub_agent_finished") == 1


async def refusal(client: Client, **fields: Any) -> str:
    """The text that a request is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.execute(**fields)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return refused.value.details() or ""


async def test_what_is_wrong_with_the_equipment_is_named(start: StartService) -> None:
    client = await start([turn("Ok.")])
    wrong = agent(
        skills=[runner_pb2.Skill(name="", version="../x")],
        mcp_servers=[
            stdio(name="a", environment={"A": "${MISSING}"}),
            runner_pb2.McpServer(name="a", http=runner_pb2.HttpServer(url="ftp://x")),
            runner_pb2.McpServer(name="b"),
        ],
        sub_agents=[runner_pb2.SubAgent(name="general-purpose", mcp_servers=["nobody"])],
    )

    text = await refusal(client, agent=wrong)

    for part in (
        "agent.skills[0].name: must be a name",
        "agent.skills[0].version: must begin with",
        "agent.mcp_servers: must have different names; 'a' is taken",
        "agent.mcp_servers[0].stdio.environment['A']: names ${MISSING}, which is not in environment",
        "agent.mcp_servers[1].http.url: must be an address",
        "agent.mcp_servers[2]: must have stdio or http",
        "agent.sub_agents: must have different names; 'general-purpose' is taken",
        "agent.sub_agents[0].description: must say",
        "agent.sub_agents[0].mcp_servers: names 'nobody'",
    ):
        assert part in text


def _recording_proxy(port: int, seen: list[tuple[str, str]]) -> Any:
    from tests.agent.http_mcp import served_over_http

    return served_over_http(port, seen)


async def test_skills_of_all_sub_agents_have_one_budget_and_equal_ones_are_installed_once(start: StartService) -> None:
    """64 skills for each of 64 sub-agents are one archive, not 4,096."""
    zeros = zip_archive({f"{number}.txt": bytes(40_000) for number in range(40)})
    skills = [runner_pb2.Skill(name=f"s{number}", content=f"text {number}", archive=zeros) for number in range(60)]
    sub_agents = [runner_pb2.SubAgent(name=f"a{number}", description="d", skills=skills) for number in range(3)]
    client = await start([turn("", command("ls bin/skills | wc -l; ls bin/skills/*/0.txt | wc -l")), turn("Ok.")])

    events = await client.execute(agent=agent(skills=skills, sub_agents=sub_agents))

    assert stdout_of(events) == b"60\n41\n"
    assert [code for code, _ in notices(events)].count("SKILL_FILES_MISSING") == 19
