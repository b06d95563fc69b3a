"""The view for terminals: finished items scroll by, running ones are redrawn below."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from rich.cells import chop_cells
from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from runner_service.cli.views import wording
from runner_service.cli.views.elements import (
    INDENT,
    depth_of,
    indented,
    label_of,
    output_line,
    plan_lines,
    progress_line,
    styled,
    text_line,
    title_line,
)
from runner_service.cli.views.lines import Fold
from runner_service.cli.views.markdown import Blocks, render_markdown
from runner_service.cli.views.status import Status, monotonic_time_of
from runner_service.cli.views.transcript import Kind, Line, Transcript
from runner_service.v1 import execution_event_pb2 as event_pb2

_REFRESHES_PER_SECOND = 10
_HEAD_LINES, _TAIL_LINES = 4, 6
_GROUPS = {
    Kind.RESULT: "calls",
    Kind.FAILURE: "calls",
    Kind.PLAN: "calls",
    Kind.AGENT: "calls",
    Kind.SUCCESS: "end",
    Kind.END: "end",
}
_MESSAGE_END_EVENTS = frozenset({"message_finished", "message_discarded"})
_MIN_WIDTH = 20
_OUTPUT_STYLES = {
    Kind.STDOUT: "dim",
    Kind.STDERR: "dim red",
    Kind.ADDED: "green",
    Kind.REMOVED: "red",
    Kind.HIDDEN: "bold",
}
_GUTTERS = {Kind.ADDED: "  + ", Kind.REMOVED: "  - ", Kind.HIDDEN: "  ... "}
_GUTTER = "  | "


@dataclass
class _Call:
    """A tool call that is under way."""

    title: Line
    start_time: float
    output: Fold = field(default_factory=lambda: Fold(_HEAD_LINES, _TAIL_LINES))


class LiveView:
    """Draws on a terminal. Construct it with `live_view`."""

    def __init__(self, console: Console, after: int, hint: str) -> None:
        self._console = console
        self._after = after
        self._status = Status(hint)
        self._transcript = Transcript()
        self._calls: dict[int, _Call] = {}
        self._texts: dict[str, Blocks] = {}
        self._plan: Line | None = None
        self._event_time = time.monotonic()
        self._spinner = Spinner("dots")
        self._execution_id = ""
        self._last_group: object = None
        self._live: Live | None = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the terminal to somebody else until the context ends; what scrolls by still does."""
        live, self._live = self._live, None
        if live is None:
            yield
            return
        live.stop()
        try:
            yield
        finally:
            live.start()
            self._live = live

    def attach(self, live: Live) -> None:
        """Names what redraws it."""
        self._live = live

    def refresh(self) -> None:
        """Redraws it, unless it is paused."""
        if self._live is not None:
            self._live.refresh()

    def show(self, event: event_pb2.ExecutionEvent) -> None:
        """Shows the event."""
        self._execution_id = event.execution_id
        self._status.update(event)
        self._event_time = monotonic_time_of(event)
        is_new = event.sequence > self._after
        for line in self._transcript.lines(event):
            if line.kind is Kind.TEXT:
                self._add_text(line, is_new=is_new)
            else:
                self._end_text(line.agent)
                self._add_line(line, is_new=is_new)
        if event.WhichOneof("event") in _MESSAGE_END_EVENTS:
            self._end_text(self._transcript.agent_of(event))

    def show_message(self, text: str) -> None:
        """Shows a message that is not an event."""
        self._console.print(Text(text, style="yellow"))

    def __rich__(self) -> ConsoleRenderable:
        return Group(*self._renderables())

    def _add_line(self, line: Line, *, is_new: bool) -> None:
        match line.kind:
            case Kind.CALL:
                self._calls[line.call] = _Call(line, self._event_time)
            case Kind.STDOUT | Kind.STDERR | Kind.ADDED | Kind.REMOVED | Kind.HIDDEN:
                if call := self._calls.get(line.call):
                    self._add_output(call, line)
            case Kind.PLAN:
                self._plan = line
                if is_new:
                    self._print(line, progress_line(line))
            case Kind.RESULT | Kind.FAILURE:
                self._end_call(line, is_new=is_new)
            case Kind.SUCCESS | Kind.END:
                self._end(line)
            case _ if is_new:
                self._print(line, text_line(line))

    def _add_output(self, call: _Call, line: Line) -> None:
        """Adds a line of output or of a change, folded to the width of the terminal, each part with its gutter."""
        gutter = _GUTTERS.get(line.kind, _GUTTER)
        width = max(_MIN_WIDTH, self._console.width - len(gutter) - INDENT * depth_of(call.title))
        for part in chop_cells(line.text.expandtabs(), width) or [""]:
            call.output.add(f"{gutter}{part}", _OUTPUT_STYLES[line.kind])

    def _add_text(self, line: Line, *, is_new: bool) -> None:
        if is_new:
            for block in self._texts.setdefault(line.agent, Blocks()).feed(line.text.expandtabs()):
                self._print_block(line.agent, block)

    def _end_text(self, agent: str) -> None:
        """Prints the rest of an agent's text, when it does something else or has ended."""
        if text := self._texts.pop(agent, None):
            for block in text.flush():
                self._print_block(agent, block)

    def _print_block(self, agent: str, block: str) -> None:
        line = Line(Kind.TEXT, block, agent)
        text = Table.grid()
        text.add_row(Text(label_of(line), style="dim"), render_markdown(block))
        if self._last_group is Kind.TEXT:
            self._console.print()
        self._print(line, indented(line, text))

    def _end_call(self, result: Line, *, is_new: bool) -> None:
        """Prints a call and its result: on one line, if it has no output."""
        call = self._calls.pop(result.call, None)
        if not is_new:
            return
        if call is None:
            self._print(result, text_line(result))
            return
        output = list(self._folded(call))
        title = title_line(call.title)
        if not output:
            title.no_wrap = False
            self._print(result, indented(result, title.append("  ").append_text(styled(result))))
            return
        self._print(
            result, indented(result, title), *output, indented(result, Text("  = ").append_text(styled(result)))
        )

    def _end(self, line: Line) -> None:
        if self._plan is not None:
            self._print(self._plan, *plan_lines(self._plan))
            self._plan = None
        self._print(line, text_line(line))

    def _print(self, line: Line, *parts: ConsoleRenderable) -> None:
        """Prints `parts`, after a blank line if the last ones were of another group."""
        group = _GROUPS.get(line.kind, line.kind)
        if self._last_group not in {None, group}:
            self._console.print()
        self._last_group = group
        self._console.print(*parts, sep="\n")

    def _renderables(self) -> Iterator[ConsoleRenderable]:
        """Yields what is redrawn: running calls, unfinished text, the plan, and the status line."""
        room = max(1, (self._console.height - 6) // max(1, len(self._calls)) - 2)
        for call in self._calls.values():
            running = wording.seconds(time.monotonic() - call.start_time)
            yield indented(call.title, title_line(call.title).append(f"  {running}", style="dim"))
            yield from list(self._folded(call))[-room:]
        for agent, text in self._texts.items():
            for written in text.pending[-room:]:
                yield text_line(Line(Kind.TEXT, written, agent))
        for line in self._transcript.partial_texts():
            yield text_line(line)
        if self._plan is not None:
            yield from plan_lines(self._plan)
        status = self._status.text(self._transcript.usage, calls_are_running=bool(self._calls))
        self._spinner.update(text=Text(status, style="dim", no_wrap=True, overflow="ellipsis"))
        yield self._spinner

    def _folded(self, call: _Call) -> Iterator[ConsoleRenderable]:
        """Yields the first and last lines of a call's output, and how many are hidden."""
        for text, style in call.output.head:
            yield output_line(call.title, text, style)
        if call.output.hidden:
            hidden = wording.counted(call.output.hidden, "line")
            command = f"runner-service output {self._execution_id} {call.title.call}"
            yield output_line(call.title, f"{_GUTTER}... {hidden} more: {command}", "bold")
        for text, style in call.output.tail:
            yield output_line(call.title, text, style)


@asynccontextmanager
async def live_view(console: Console, *, after: int, hint: str) -> AsyncIterator[LiveView]:
    """Draws on `console` until the context ends. `hint` says what keys do."""
    view = LiveView(console, after, hint)
    live = Live(
        view,
        console=console,
        auto_refresh=False,  # its thread would read the view while it changes
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with live, _suspendable(live):
        view.attach(live)
        ticker = asyncio.create_task(_refresh(view), name="live-view")
        try:
            yield view
        finally:
            ticker.cancel()
            await asyncio.wait([ticker])


@contextmanager
def _suspendable(live: Live) -> Iterator[None]:
    """On Ctrl-Z gives the cursor back before the process stops, and draws again when it continues."""
    loop = asyncio.get_running_loop()

    def suspend() -> None:
        live.stop()
        os.kill(os.getpid(), signal.SIGSTOP)
        live.start()

    loop.add_signal_handler(signal.SIGTSTP, suspend)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTSTP)


async def _refresh(view: LiveView) -> None:
    while True:
        view.refresh()
        await asyncio.sleep(1 / _REFRESHES_PER_SECOND)
