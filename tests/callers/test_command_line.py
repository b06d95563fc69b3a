"""`token` makes and checks tokens, and `check` says who may do what."""

import re
from pathlib import Path

from tests.callers.files import CallersYaml
from tests.cli.command_line import CommandLine


def line(tmp_path: Path, **environ: str) -> CommandLine:
    return CommandLine(tmp_path, {"MODE": "local", "STATE_DIR": str(tmp_path / "state"), **environ})


def test_a_new_token_fits_the_line_that_is_printed_with_it(tmp_path: Path) -> None:
    run = line(tmp_path)
    made = run("token", "new", "acme-ci", "--expires", "90d")
    found = re.search(r"- \{id: (\w{9}), sha256: (\w{64}), expires: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\}", made.stderr)
    assert found
    checked = run("token", "check", stdin=made.stdout)
    assert checked.stdout.split() == ["id:", found[1], "sha256:", found[2]]
    assert run("token", "check", stdin=made.stdout.strip()[:-1]).returncode == 1


def test_check_says_who_may_do_what_and_serve_refuses_what_it_calls_wrong(tmp_path: Path, callers: CallersYaml) -> None:
    callers.add("ci", "acme", ["run", "approve"], acts_for=["globex"])
    callers.caller("ci")["tokens"][0]["expires"] = "2020-01-01T00:00:00Z"
    callers.content["sockets"] = [
        {"path": "/run/x.sock", "name": "local", "tenant": "default", "roles": ["operate"], "mode": "0660"}
    ]
    callers.write()
    walls = {"SANDBOX_SCOPE": "session", "SANDBOX_CONFINEMENT": "workspace"}
    run = line(tmp_path, CALLERS_FILE=str(callers.path), STIGMER_LLM_PROVIDER="scripted")
    said = run("check", **walls).stdout
    assert "ok    caller ci: may run, approve for acme, globex, by token" in said
    assert "ok    caller local: may operate for every tenant, by the socket /run/x.sock (mode 0660)" in said
    assert re.search(r"warn  caller ci: its token \w{9} has expired", said)
    assert "FAIL  CALLERS_FILE: CALLERS_FILE has the tenants acme, default, globex" in run("check").stdout
    refused = run("serve")
    assert refused.returncode == 78
    assert "set SANDBOX_SCOPE=session and SANDBOX_CONFINEMENT=workspace" in refused.stderr
