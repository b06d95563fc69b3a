"""Writes docs/configuration.md from the settings' own docstrings. With --check, only tells whether it has drifted."""

import sys
from pathlib import Path

from runner_service.settings import Settings, describe

PAGE = Path(__file__).with_name("configuration.md")

MODES = ("local", "cloud")
DEFAULTS = {
    "MODE": "`cloud`",
    "HOME": "–",
    "MAX_CONCURRENT_EXECUTIONS": "by the machine",
    "SANDBOX_MAX_MEMORY_BYTES": "by the machine",
    "SANDBOX_MAX_PROCESSES": "by the machine",
}
"""Of variables that this page has to set, or that depend on the machine."""

INTRODUCTION = """\
# Configuration

The service is configured by environment variables, read once at start; no `.env` file is read. An empty value counts as
unset, and quotes are part of the value. All invalid variables are reported at once, with exit code 78.
`runner-service check` prints the values in force, with secrets masked, and checks what they name.

This page is generated from the docstrings of
[`settings/groups`](../src/runner_service/settings/groups) by `make docs`. Durations are in seconds. Where the modes
differ, the default is `local` / `cloud`; no default is shown as –.

| variable | default | meaning |
| --- | --- | --- |
"""


def page() -> str:
    """Returns the page as it should be."""
    local, cloud = (describe(Settings.from_environment({"MODE": mode, "HOME": "/home/you"})) for mode in MODES)
    rows = (
        f"| `{row.variable}` | {DEFAULTS.get(row.variable) or default(row.value, other.value)} | {cell(row.meaning)} |"
        for row, other in zip(local, cloud, strict=True)
    )
    return INTRODUCTION + "\n".join(rows) + "\n"


def default(local: str, cloud: str) -> str:
    """Returns the default in both modes, once if it is the same."""
    shown = [f"`{cell(value)}`" if value else "–" for value in (local, cloud)]
    return shown[0] if shown[0] == shown[1] else " / ".join(shown)


def cell(text: str) -> str:
    """Returns `text` as it can stand in a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Writes or checks the page; returns the exit code."""
    wanted = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(wanted)
        return 0
    if PAGE.exists() and PAGE.read_text() == wanted:
        return 0
    print(f"{PAGE.name} has drifted from the settings: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
