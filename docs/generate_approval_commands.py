"""Writes docs/approval-commands.md from the table that the tests prove. `--check` only compares."""

import sys
from importlib import import_module
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "approval-commands.md"

HEAD = """# Commands and ALLOW rules

This page is generated from [the tests](../tests/approvals/test_shell.py) by `make docs`: what passes ALLOW rules for
{rules}, and what is asked about all the same.
[Approvals](approvals.md) says why.
"""


def page() -> str:
    """Returns the page."""
    sys.path.insert(0, str(DOCS.parent))
    table = import_module("tests.approvals.test_shell")
    rules = ", ".join(f"`{' '.join(words)}`" for words in table.ALLOWED)
    parts = [HEAD.format(rules=rules)]
    for title, block in (("Passes", table.PLAIN), ("Is asked about", table.NOT_PLAIN)):
        texts = table.texts(block)
        lines = "\n".join(text.replace("\n", "⏎") for text in texts)
        parts.append(f"## {title}\n\n{len(texts)} texts, one a line; `⏎` is a line break.\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


def main() -> None:
    """Writes or compares."""
    made = page()
    if "--check" not in sys.argv:
        PAGE.write_text(made)
    elif not PAGE.exists() or PAGE.read_text() != made:
        sys.exit("approval-commands.md has drifted from the tests: run `make docs`")


if __name__ == "__main__":
    main()
