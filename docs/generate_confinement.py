"""Writes the table of escapes into docs/confinement.md, from the recorded run. With --check, only reports drift."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("confinement.md")
RECORD = Path(__file__).with_name("escapes.json")
BEGIN, END = "<!-- generated from the run: begin -->\n", "<!-- generated from the run: end -->\n"


def page() -> str:
    """Returns the whole page, with the table of the last run."""
    sys.path.insert(0, str(ROOT))
    module = import_module("tests.executors.confinement.escapes")
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n".join(_lines(module.ESCAPES, module.GAPS_OF_THREAD, record)) + "\n" + END + after


def _lines(escapes: list[Any], gaps: dict[str, str], record: dict[str, Any]) -> Iterator[str]:
    held = sum(not got_out for got_out in record["user"].values())
    yield f"\n{len(escapes)} ways out, {held} of them held; recorded on {record['machine']}.\n"
    yield "| way out | level | root | user | thread | no cell | held by |\n| --- | --- | --- | --- | --- | --- | --- |"
    for group, members in groupby(escapes, key=lambda each: each.group):
        yield f"| **{group}** | | | | | | |"
        for each in members:
            root, user, thread, control = (record[who][each.name] for who in ("root", "user", "thread", "control"))
            by_thread = f"`{gaps[each.name]}`" if thread else _outcome(thread)
            outcomes = [_outcome(root), _outcome(user), by_thread, _outcome(control)]
            yield f"| {each.name} | {_level(each)} | {' | '.join(outcomes)} | {each.kept_by} |"
    yield ""


def _level(escape: Any) -> str:
    network = "" if escape.network == "all" else f", {escape.network.upper()}"
    return f"{escape.files.upper()}{network}"


def _outcome(got_out: bool | None) -> str:  # a cell of the table
    return "refused" if got_out is None else "**out**" if got_out else "held"


def main() -> int:
    """Writes the page, or with --check compares it with what is there; 1 when it has drifted."""
    wanted = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    print("docs/confinement.md has drifted from the run: run python docs/generate_confinement.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
