"""Asks at the terminal about the tool calls of `run` that wait for approval, one after the other."""

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import click

from runner_service.cli.decisions import Decision, arguments_of, describe, describe_rule, submit
from runner_service.cli.silent_grpc import grpc
from runner_service.cli.views import View
from runner_service.cli.views.lines import printable
from runner_service.client import RunnerClient
from runner_service.v1 import execution_event_pb2 as event_pb2

_DECIDED = "decided elsewhere"
_SIMPLE = {"y": Decision("approve"), "s": Decision("skip")}


class ApprovalPrompt:
    """Prompts for what is asked about; a question is withdrawn when it is decided elsewhere."""

    def __init__(self, client: RunnerClient, execution_id: str, view: View) -> None:
        self._client = client
        self._execution_id = execution_id
        self._view = view
        self._open: deque[event_pb2.ApprovalRequested] = deque()
        self._arrived = asyncio.Event()
        self._question: asyncio.Task[Decision | None] | None = None
        self._asked_about = ""

    @property
    def is_asking(self) -> bool:
        """True while a question stands at the terminal."""
        return self._question is not None

    def observe(self, event: event_pb2.ExecutionEvent) -> None:
        """Takes notice of an event of the execution."""
        if event.HasField("approval_requested"):
            self._open.append(event.approval_requested)
            self._arrived.set()
        elif event.HasField("approval_decided"):
            call_id = event.approval_decided.tool_call_id
            self._open = deque(each for each in self._open if each.tool_call_id != call_id)
            if self._question and self._asked_about == call_id:
                self._question.cancel(_DECIDED)

    async def ask_forever(self) -> int:
        """Asks one question after the other, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._open:
                await self._ask_about(self._open.popleft(), self._execution_id)

    async def ask_about_session(self, session_id: str) -> None:
        """Asks about what already waits in a session, since an execution that is new waits behind it."""
        async for pending in self._client.list_approvals(session_id=session_id):
            if pending.execution_id != self._execution_id:  # its own requests come with its events
                await self._ask_about(pending.request, pending.execution_id)

    async def _ask_about(self, request: event_pb2.ApprovalRequested, execution_id: str) -> None:
        self._asked_about = request.tool_call_id
        with self._view.paused():
            self._question = asyncio.ensure_future(_question(request))
            try:
                decision = await self._question
            except asyncio.CancelledError as cancelled:
                if cancelled.args != (_DECIDED,):
                    raise
                click.echo(f"\n{_DECIDED}", err=True)
                return
            finally:
                self._question = None
        if decision is None:
            self._view.show_message(f"left waiting; to decide: runner-service approve {execution_id}, or reject")
            return
        try:
            await submit(self._client, execution_id, request, decision)
        except grpc.aio.AioRpcError as error:
            self._view.show_message(str(error.details()))


async def _question(request: event_pb2.ApprovalRequested) -> Decision | None:
    """Asks until there is an answer; None leaves the call waiting."""
    _show(request)
    rules = [describe_rule(rule) for rule in request.suggested_rules]
    choices = "y/n/s/e/d" if not rules else "y/a/n/s/e/d"
    while True:
        answer = (await _line(f"run it? [{choices}, ? for help] ")).strip().lower()
        match answer:
            case "y" | "s":
                return _SIMPLE[answer]
            case "a" if rules:
                click.echo(f"allowed from now on in this session: {'; '.join(rules)}", err=True)
                return Decision("approve", always=True)
            case "n":
                return Decision("reject", (await _line("why, for the model (may be empty): ")).strip())
            case "e":
                if (edited := await asyncio.to_thread(_edited, request)) is not None:
                    return Decision("approve", arguments=edited)
            case "d" | "":
                return None
        click.echo(_HELP, err=True)


_HELP = (
    "y: run it once; a: run it, and equal calls of this session; n: refuse it; s: skip it; e: edit its arguments, then "
    "run it; d: decide later"
)


def _show(request: event_pb2.ApprovalRequested) -> None:
    click.secho(f"The agent wants to run: {describe(request)}", bold=True, err=True)
    if request.reason:
        click.echo(f"asked because: {printable(request.reason)}", err=True)
    for line in request.diff.splitlines():
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.secho(f"  {printable(line)}", fg=colour, err=True)
    if request.diff_truncated:
        click.echo("  (the diff is not complete)", err=True)


def _edited(request: event_pb2.ApprovalRequested) -> dict[str, Any] | None:
    text = json.dumps(arguments_of(request), indent=2, ensure_ascii=False)
    edited = click.edit(text, extension=".json")
    if edited is None or edited == text:
        return None
    try:
        values = json.loads(edited)
    except ValueError as error:
        click.echo(f"that is not JSON: {error}", err=True)
        return None
    return values if isinstance(values, dict) else None


async def _line(prompt: str) -> str:
    """Reads a line from the terminal without blocking the loop, so that the question can be withdrawn."""
    click.echo(prompt, nl=False, err=True)
    async with _readable_stdin() as readable:
        await readable.wait()
    line = sys.stdin.readline()
    return line or "d"  # the terminal has gone


@asynccontextmanager
async def _readable_stdin() -> AsyncIterator[asyncio.Event]:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), readable.set)
    try:
        yield readable
    finally:
        loop.remove_reader(sys.stdin.fileno())
