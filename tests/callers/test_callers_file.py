"""CALLERS_FILE is strict, and what is wrong with it is named by its line."""

import re
import textwrap
from pathlib import Path

import pytest
from tests.docs.pages import REPOSITORY

from runner_service.api.callers.directory import Directory
from runner_service.api.callers.file import read_callers_file
from runner_service.api.callers.file_errors import CallersFileError
from runner_service.api.callers.isolation import require_isolation
from runner_service.api.callers.tokens import new_token, token_id
from runner_service.settings import Settings

HASH = "0" * 64
CALLER = f"callers:\n- name: ci\n  tenant: acme\n  roles: [run]\n  tokens: [{{id: abcdefghi, sha256: {HASH}}}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("callers: 5", "line 1: callers"),
        ("callers: [", "line 2: it is not YAML"),
        (CALLER.replace("acme", "Acme"), "line 3: callers.0.tenant: should be at most 40"),
        (CALLER.replace("[run]", "[root]"), "line 4: callers.0.roles.0"),
        (CALLER.replace("[run]", "[]"), "line 4: callers.0.roles"),
        (CALLER.replace("roles", "rules"), "callers.0.rules"),
        (CALLER.replace("  roles", "  tenant: b\n  roles"), "line 4: the key 'tenant' is there twice"),
        (CALLER.replace("[run]", "&a [run]") + "- *a\n", "line 6: aliases are not allowed"),
        (CALLER + CALLER.replace("callers:\n", ""), "caller ci is there twice"),
        (CALLER.replace("abcdefghi", "abc"), "line 5: callers.0.tokens.0.id"),
        (CALLER.replace(HASH, f"{HASH}, expires: 2027-01-01"), "line 5: callers.0.tokens.0.expires"),
        ("callers: [{name: a, tenant: b, roles: [run]}]", "should have tokens or certificates"),
        ("callers: [{name: a, tenant: b, roles: [run], certificates: ['spiffe://a/*']}]", "without patterns"),
        ("callers: [{name: a, tenant: b, roles: [run], certificates: [nobody]}]", "should be spiffe://"),
        (
            "callers: [{name: a, tenant: b, roles: [run], certificates: ['dns:a'], with_certificates: ['dns:a']}]",
            "with_certificates is what tokens need",
        ),
        (CALLER + "  with_certificates: [nobody]\n", "line 6: callers.0.with_certificates.0: should be spiffe://"),
        ("a: " + "[" * 100 + "]" * 100, "nested too deeply"),
        ("a: " + "[" * 100_000 + "]" * 100_000, "nested too deeply|nesting depth"),  # libyaml has a bound, too
        ("x" * (1 << 21), "more than"),
    ],
)
def test_a_wrong_file_is_refused_by_line_without_its_values(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "callers.yaml"
    path.write_text(text)
    with pytest.raises(CallersFileError, match=message) as refused:
        read_callers_file(path)
    assert HASH not in str(refused.value)


def test_every_scalar_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "callers.yaml"
    path.write_text(CALLER.replace("acme", "no").replace("name: ci", "name: 0123"))
    caller = read_callers_file(path).callers[0]
    assert (caller.name, caller.tenant) == ("0123", "no")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CallersFileError, match="cannot be read"):
        read_callers_file(tmp_path / "none")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "SANDBOX_SCOPE=session and SANDBOX_CONFINEMENT=workspace"),
        ({"SANDBOX_SCOPE": "session"}, "set SANDBOX_CONFINEMENT=workspace"),
    ],
)
def test_several_tenants_need_walls_between_their_commands(
    tmp_path: Path, environ: dict[str, str], message: str
) -> None:
    path = tmp_path / "callers.yaml"
    path.write_text(CALLER.replace("  roles", "  acts_for: [globex]\n  roles"))
    directory = Directory(read_callers_file(path))
    with pytest.raises(CallersFileError, match=message):
        require_isolation(Settings.from_environment({"MODE": "local", **environ}), directory)
    path.write_text(CALLER)
    require_isolation(Settings.from_environment({"MODE": "local"}), Directory(read_callers_file(path)))


def test_a_token_tells_its_id_and_a_mistyped_one_does_not() -> None:
    for _ in range(300):
        token = new_token()
        assert len(token.token) == 62
        assert token_id(token.token) == token.id
        assert token_id(token.token[:-1]) is None
        wrong = "0" if token.token[20] != "0" else "1"
        assert token_id(f"{token.token[:20]}{wrong}{token.token[21:]}") is None


def test_the_files_on_the_page_are_read_as_they_stand(tmp_path: Path) -> None:
    page = REPOSITORY / "docs" / "operations.md"
    section = page.read_text().partition("## Callers with names")[2].partition("\n## ")[0]
    found = re.findall(r"^( *)```yaml\n(.*?)^ *```$", section, flags=re.MULTILINE | re.DOTALL)
    assert len(found) == 3  # named tokens, certificates and sockets; issuers; quotas
    together = ""
    for indent, text in found:
        content = textwrap.dedent(text)
        path = tmp_path / "callers.yaml"
        path.write_text(content)
        assert Directory(read_callers_file(path)), indent
        together += content
    path.write_text(together)
    file = read_callers_file(path)
    assert file.tenant_names() == {"acme", "default", "globex"}
    assert file.tenant_limits()["acme"].stored_bytes == 10 << 30
