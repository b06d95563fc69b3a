"""How events are shown."""

import sys
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Protocol

from runner_service.cli.progress import clear_progress
from runner_service.cli.view_options import ViewOptions
from runner_service.cli.views.machine import AnswerView, JsonView
from runner_service.cli.views.plain import PlainView
from runner_service.v1 import execution_event_pb2 as event_pb2


class View(Protocol):
    """Shows the events of one execution."""

    def show(self, event: event_pb2.ExecutionEvent) -> None:
        """Shows the next event. They come in order, from the first one on."""

    def show_message(self, text: str) -> None:
        """Shows a message that is not an event."""

    def paused(self) -> AbstractContextManager[None]:
        """Leaves the terminal to somebody else until the context ends. Events may be shown meanwhile."""


@asynccontextmanager
async def opened_view(options: ViewOptions, *, after: int = 0, hint: str) -> AsyncIterator[View]:
    """Shows events on standard output until the context ends; only those above `after`, where it is for people.

    `hint` says what keys do.
    """
    clear_progress()
    match options:
        case ViewOptions.JSON:
            yield JsonView(sys.stdout)
        case ViewOptions.QUIET:
            yield AnswerView(sys.stdout)
        case ViewOptions.HTML:
            from runner_service.cli.views.html import HtmlView  # noqa: PLC0415  # only for this option

            page = HtmlView(sys.stdout)
            yield page
            page.write()
        case ViewOptions.BEST if sys.stdout.isatty():
            from rich.console import Console  # noqa: PLC0415  # 100 ms, for terminals only

            from runner_service.cli.views.live import live_view  # noqa: PLC0415  # the same
            from runner_service.cli.views.markdown import THEME  # noqa: PLC0415  # the same

            console = Console(highlight=False, markup=False, emoji=False, theme=THEME)
            if console.is_dumb_terminal:
                yield PlainView(sys.stdout, after)
                return
            async with live_view(console, after=after, hint=hint) as view:
                yield view
        case _:
            yield PlainView(sys.stdout, after)
