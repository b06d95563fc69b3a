"""The parts that the live view draws."""

from collections.abc import Iterator

from rich.console import ConsoleRenderable
from rich.padding import Padding
from rich.text import Text

from runner_service.cli.views.transcript import Kind, Line

INDENT = 2

_STYLES = {
    Kind.HEAD: "dim",
    Kind.REASONING: "dim italic",
    Kind.AGENT: "magenta",
    Kind.NOTE: "italic",
    Kind.FILE: "cyan",
    Kind.WARNING: "yellow",
    Kind.RESULT: "green",
    Kind.FAILURE: "red",
    Kind.SUCCESS: "bold green",
    Kind.END: "bold red",
}
_TODO_STYLES = {"[x]": "dim", "[>]": "bold"}


def title_line(line: Line) -> Text:
    """Returns the line of a running call."""
    name, _, rest = line.text.partition(" ")
    title = Text(no_wrap=True, overflow="ellipsis").append(label_of(line), style="dim")
    return title.append(name, style="bold cyan").append(f" {rest}")


def text_line(line: Line) -> ConsoleRenderable:
    """Returns a line with its label."""
    return indented(line, Text().append(label_of(line), style="dim").append_text(styled(line)))


def styled(line: Line) -> Text:
    """Returns the text of a line in its style."""
    return Text(line.text.expandtabs(), style=_STYLES.get(line.kind, "none"))


def plan_lines(line: Line) -> Iterator[ConsoleRenderable]:
    """Yields the items of a plan."""
    for item in line.text.splitlines():
        yield indented(line, Text(item, style=_TODO_STYLES.get(item[:3], "none")))


def progress_line(plan: Line) -> ConsoleRenderable:
    """Returns the line that stays of a plan update."""
    items = plan.text.splitlines()
    done = sum(item.startswith("[x]") for item in items)
    return indented(plan, Text().append(label_of(plan), style="dim").append(f"plan: {done} of {len(items)} done"))


def output_line(call: Line, text: str, style: str) -> ConsoleRenderable:
    """Returns a line of a call's output."""
    return indented(call, Text(text, style=style, no_wrap=True, overflow="ellipsis"))


def indented(line: Line, text: ConsoleRenderable) -> ConsoleRenderable:
    """Returns `text`, indented if a sub-agent's."""
    depth = depth_of(line)
    return Padding(text, (0, 0, 0, INDENT * depth), expand=False) if depth else text


def depth_of(line: Line) -> int:
    """Returns how deep the sub-agent of a line is nested; 0 for the main agent."""
    return line.agent.count("/") + 1 if line.agent else 0


def label_of(line: Line) -> str:
    """Returns the labels of a line: its sub-agent, its call."""
    agent = f"[{line.agent}] " if line.agent else ""
    return f"{agent}[{line.call}] " if line.call else agent
