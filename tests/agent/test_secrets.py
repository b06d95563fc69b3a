"""Secrets: commands have them, and nothing else ever does."""

import base64
import json
from pathlib import Path

from tests.agent.bench import Bench, Played, command, turn

from runner_service.redaction import MARK

SECRET = "s3cr3t/Tök3n&value"
ECHO = turn("{{last_tool_result}}")


async def play(bench: Bench, *turns: dict[str, object], **options: object) -> Played:
    return await bench.play(*turns, secrets=[SECRET], environment={"TOKEN": SECRET}, **options)


def assert_nowhere(played: Played, *directories: Path) -> None:
    forms = [SECRET.encode(), base64.b64encode(SECRET.encode())[:20], json.dumps(SECRET)[1:-1].encode()]
    for form in forms:
        assert form not in b"".join(event.SerializeToString() for event in played.events)
        for directory in directories:
            for path in directory.rglob("*"):
                assert not path.is_file() or form not in path.read_bytes(), path
    assert played.answer is None or SECRET not in played.answer


async def test_what_a_command_prints_is_redacted_before_anyone_sees_it(bench: Bench) -> None:
    script = 'printf "%s" "$TOKEN" | cut -c 1-7 | tr -d "\\n"; printf "%s" "$TOKEN" | cut -c 8-; echo $TOKEN | base64'
    played = await play(bench, turn("", command(script)), ECHO, session="kept")

    assert MARK.encode() in played.output("call-1-1")
    assert played.answer is not None
    assert MARK in played.answer
    assert_nowhere(played, bench.state_dir)


async def test_a_secret_that_is_printed_in_two_goes_is_redacted(bench: Bench) -> None:
    halves = 'printf "%s" "${TOKEN%value}"; sleep 0.2; echo value; echo "${TOKEN%value}" >&2'
    played = await play(bench, turn("", command(halves)), ECHO)
    assert played.output("call-1-1") == f"{MARK}\n".encode()
    assert_nowhere(played, bench.state_dir)


async def test_the_message_and_the_instructions_reach_the_model_without_secrets(bench: Bench) -> None:
    played = await play(
        bench, turn("{{message}}"), message=f"use {SECRET}", instructions=f"log in with {SECRET}", session="kept"
    )
    assert played.answer == f"use {MARK}"
    assert_nowhere(played, bench.state_dir)


async def test_a_model_that_says_a_secret_is_redacted_everywhere(bench: Bench) -> None:
    """Cut across pieces as well: it streams word by word, and the secret here has a space."""
    secret = "correct horse battery"
    todos = [{"content": f"use {secret}", "status": "pending"}]
    task = ("task", {"subagent_type": "general-purpose", "description": f"Try {secret}."})
    played = await bench.play(
        turn(f"It is {secret}!", ("write_todos", {"todos": todos}), command(f"echo '{secret}'"), reasoning=secret),
        turn("", task),
        turn(f"Once more: {secret}"),
        sub_agents=[{"turns": [turn(f"Heard: {{{{message}}}} {secret}")]}],
        secrets=[secret],
        session="kept",
    )
    assert played.answer == f"Once more: {MARK}"
    assert played.output("call-1-2") == f"{MARK}\n".encode()
    everything = b"".join(event.SerializeToString() for event in played.events)
    assert secret.encode() not in everything
    assert b"horse" not in everything
    for path in bench.state_dir.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()


async def test_a_file_tool_neither_shows_a_secret_nor_writes_its_mark(bench: Bench) -> None:
    bench.root.mkdir(exist_ok=True)
    (bench.root / ".env").write_text(f"TOKEN={SECRET}\nOTHER=1\n")
    played = await play(
        bench,
        turn("", ("read_file", {"file_path": "/.env"}), ("grep", {"pattern": "TOKEN", "output_mode": "content"})),
        turn("", ("write_file", {"file_path": "/.env", "content": f"TOKEN={MARK}\nOTHER=2\n"})),
        turn("", ("edit_file", {"file_path": "/.env", "old_string": f"{MARK}\nOTHER=1", "new_string": "OTHER=2"})),
        turn("Done."),
    )
    assert MARK in played.finished("call-1-1").result
    assert "cannot see" in played.finished("call-2-1").result
    assert "cannot see" in played.finished("call-3-1").result
    assert (bench.root / ".env").read_text() == f"TOKEN={SECRET}\nOTHER=1\n"
    assert_nowhere(played, bench.state_dir)


async def test_a_failing_models_words_are_redacted(bench: Bench) -> None:
    played = await play(bench, turn("", error={"status": 400, "message": f"bad key {SECRET}"}))
    assert played.end is not None
    assert SECRET not in played.end.message
    assert MARK in played.end.message


async def test_the_next_execution_knows_no_secret_of_the_one_before(bench: Bench) -> None:
    script = bench.script([turn("", command("echo ${TOKEN:-none}")), ECHO])
    first = await bench.run(script, secrets=[SECRET], environment={"TOKEN": SECRET})
    second = await bench.run(script)
    assert first.output("call-1-1") == f"{MARK}\n".encode()
    assert second.output("call-1-1") == b"none\n"


async def test_live_output_stays_live_while_secrets_are_looked_for(bench: Bench) -> None:
    """The command goes on only once its first line was seen, though that ends like the secret begins."""
    bench.root.mkdir(exist_ok=True)

    waits = "echo s3cr3t; until [ -e go ]; do sleep 0.01; done; echo on"
    played = await play(bench, turn("", command(waits)), ECHO, watch=bench.let_go)
    assert played.all("tool_output")[0].stdout == b"s3cr3t\n"
    assert played.output("call-1-1") == b"s3cr3t\non\n"


async def test_names_ids_and_reasons_of_a_model_are_redacted_everywhere(bench: Bench) -> None:
    secret = "correct-horse-battery"
    call = {"name": secret, "args": {}, "id": secret}
    odd = {"tool_calls": [call], "stop_reason": secret}
    played = await bench.play(odd, turn("Done."), secrets=[secret], environment={}, session="kept")
    text = b"".join(event.SerializeToString() for event in played.events)
    assert secret.encode() not in text
    for path in bench.state_dir.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
