"""The view for terminals: what is done scrolls by, what is under way is shown live below it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from runner_service.cli.views import wording
from runner_service.cli.views.lines import Fold
from runner_service.cli.views.transcript import Kind, Line, Transcript
from runner_service.v1 import execution_event_pb2 as event_pb2

_REFRESHES_PER_SECOND = 10
_HEAD_LINES, _TAIL_LINES = 4, 6
_STYLES = {
    Kind.HEAD: "dim",
    Kind.REASONING: "dim italic",
    Kind.AGENT: "magenta",
    Kind.NOTE: "blue",
    Kind.WARNING: "yellow",
    Kind.RESULT: "green",
    Kind.FAILURE: "red",
    Kind.SUCCESS: "bold green",
    Kind.END: "bold red",
}
_OUTPUT_STYLES = {Kind.STDOUT: "dim", Kind.STDERR: "dim red"}


@dataclass
class _Call:
    """A tool call that is under way."""

    title: Line
    began: float
    output: Fold = field(default_factory=lambda: Fold(_HEAD_LINES, _TAIL_LINES))


class LiveView:
    """Draws on a terminal. Construct it with `live_view`."""

    def __init__(self, console: Console, after: int, hint: str) -> None:
        self._console = console
        self._after = after
        self._hint = hint
        self._transcript = Transcript()
        self._calls: dict[int, _Call] = {}
        self._plan: Line | None = None
        self._began = time.monotonic()
        self._spinner = Spinner("dots")
        self._execution_id = ""

    def show(self, event: event_pb2.ExecutionEvent) -> None:
        """Takes the event into the picture."""
        self._execution_id = event.execution_id
        for line in self._transcript.lines(event):
            self._take(line, is_new=event.sequence > self._after)

    def note(self, text: str) -> None:
        """Tells something beside the events."""
        self._console.print(Text(text, style="yellow"))

    def __rich__(self) -> ConsoleRenderable:
        return Group(*self._picture())

    def _take(self, line: Line, *, is_new: bool) -> None:
        match line.kind:
            case Kind.CALL:
                self._calls[line.call] = _Call(line, time.monotonic())
            case Kind.STDOUT | Kind.STDERR:
                if call := self._calls.get(line.call):
                    call.output.add(line.text, _OUTPUT_STYLES[line.kind])
            case Kind.PLAN:
                self._plan = line
            case Kind.RESULT | Kind.FAILURE:
                self._end_call(line, is_new=is_new)
            case Kind.SUCCESS | Kind.END:
                self._end(line)
            case _ if is_new:
                self._console.print(_text(line))

    def _end_call(self, result: Line, *, is_new: bool) -> None:
        call = self._calls.pop(result.call, None)
        if not is_new:
            return
        if call is not None:
            self._console.print(_title(call.title))
            self._console.print(*self._folded(call), sep="\n")
        self._console.print(_text(result, mark="  " if call is not None else ""))

    def _end(self, line: Line) -> None:
        if self._plan is not None:
            self._console.print(_text(self._plan))
        self._console.print(_text(line))

    def _picture(self) -> Iterator[ConsoleRenderable]:
        """Yields what is under way: calls, the text that is being written, the plan, and what it took so far."""
        room = max(1, (self._console.height - 6) // max(1, len(self._calls)) - 2)
        for call in self._calls.values():
            title = _title(call.title)
            title.append(f"  {wording.seconds(time.monotonic() - call.began)}", style="dim")
            yield title
            yield from list(self._folded(call))[-room:]
        for line in self._transcript.partial_texts():
            yield _text(line)
        if self._plan is not None:
            yield _text(self._plan)
        usage = wording.tokens(self._transcript.usage)
        status = f"{wording.seconds(time.monotonic() - self._began)}, {usage}; {self._hint}"
        self._spinner.update(text=Text(status, style="dim", no_wrap=True, overflow="ellipsis"))
        yield self._spinner

    def _folded(self, call: _Call) -> Iterator[Text]:
        output, margin = call.output, _margin(call.title) + "  | "
        for text, style in output.head:
            yield Text(margin + text.expandtabs(), style=style, no_wrap=True, overflow="ellipsis")
        if output.hidden:
            hidden = f"... {wording.counted(output.hidden, 'line')} more: "
            command = f"runner-service output {self._execution_id} {call.title.call}"
            yield Text(margin + hidden + command, style="blue", no_wrap=True, overflow="ellipsis")
        for text, style in output.tail:
            yield Text(margin + text.expandtabs(), style=style, no_wrap=True, overflow="ellipsis")


@asynccontextmanager
async def live_view(console: Console, *, after: int, hint: str) -> AsyncIterator[LiveView]:
    """Draws on `console` until the context ends, and then leaves only what is done. `hint` says what keys do."""
    view = LiveView(console, after, hint)
    live = Live(
        view,
        console=console,
        auto_refresh=False,  # its thread would read the view while it changes
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with live:
        ticker = asyncio.create_task(_refresh(live), name="live-view")
        try:
            yield view
        finally:
            ticker.cancel()
            await asyncio.wait([ticker])


async def _refresh(live: Live) -> None:
    while True:
        live.refresh()
        await asyncio.sleep(1 / _REFRESHES_PER_SECOND)


def _title(line: Line) -> Text:
    name, _, rest = line.text.partition(" ")
    title = Text(_margin(line) + f"[{line.call}] ", style="dim", no_wrap=True, overflow="ellipsis")
    return title.append(name, style="bold cyan not dim").append(f" {rest}", style="not dim")


def _text(line: Line, mark: str = "") -> Text:
    margin = _margin(line) + mark
    text = Text("\n".join(margin + each.expandtabs() for each in line.text.split("\n")))
    text.stylize(_STYLES.get(line.kind, ""))
    return text


def _margin(line: Line) -> str:
    return "  " * (line.agent.count("/") + 1) + f"[{line.agent}] " if line.agent else ""
