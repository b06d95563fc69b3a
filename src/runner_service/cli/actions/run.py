"""`run`."""

import asyncio
import os
from collections.abc import Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from runner_service.cli.actions.stored import session_to_continue, stored_root
from runner_service.cli.approval_prompt import ApprovalPrompt
from runner_service.cli.connection import Connection, connected
from runner_service.cli.decisions import Decision, submit
from runner_service.cli.errors import CommandError, ExitCode, exit_code_for
from runner_service.cli.prompts import is_interactive
from runner_service.cli.run_request import RunOptions, build_request
from runner_service.cli.signals import Interrupts, cancelled_by_termination, counting_interrupts
from runner_service.cli.silent_grpc import grpc
from runner_service.cli.target import Target
from runner_service.cli.view_options import ViewOptions
from runner_service.cli.views import View, opened_view
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from runner_service.cli.private_service import PrivateService
    from runner_service.settings import Provider

_DEFAULT_ROOT = "./workspace"
_MODEL_FAILURES = frozenset({"MODEL_UNAVAILABLE", "MODEL_REJECTED"})
_CANCEL_DELAY_SECONDS = 1.0  # seconds between Ctrl-C and the cancel
_DETACH_TIMEOUT_SECONDS = 5.0


def run_agent(run_options: RunOptions, root: Path | None, view: ViewOptions, target: Target) -> int:
    """Runs an agent, shows its events, and returns the exit code of the outcome. Raises CommandError."""
    if run_options.continues:
        roots = [root] if root else [Path(os.environ.get("SANDBOX_ROOT_DIR") or _DEFAULT_ROOT), Path.cwd()]
        session_id = session_to_continue(target, roots)
        run_options = replace(run_options, session_id=session_id)
    # A service that is named may have any provider; one of ours has that of our environment.
    is_provider_set = target.server is not None or bool(os.environ.get("STIGMER_LLM_PROVIDER"))
    request = build_request(run_options, is_provider_set=is_provider_set)
    own = None
    if target.server is None:
        own = _private_service(run_options, root, request.agent.model.provider)
    elif root is not None:
        raise CommandError(
            "--root is for a service of our own; the one at --server has its root already", ExitCode.USAGE
        )
    try:
        if run_options.detach:
            return asyncio.run(_start_detached(request, target, own))
        return asyncio.run(_run(request, view, target, own, waits=run_options.waits_for_approvals))
    except asyncio.CancelledError:
        return ExitCode.TERMINATED


def private_service_of(execution_id: str) -> "PrivateService":
    """Returns our service, in the directory that an execution worked in, with its provider's key."""
    options = RunOptions(
        message="",
        execution_id=execution_id,
        session_id="",
        model="",
        instructions="",
        variables=(),
        secrets=(),
        timeout=None,
        labels=(),
        detach=False,
    )
    return _private_service(options, None, "")


def _private_service(run_options: RunOptions, root: Path | None, provider: str) -> "PrivateService":
    """Returns the service to use, with the key of the model's provider if there is one."""
    from runner_service.cli.private_service import PrivateService  # noqa: PLC0415  # for this only
    from runner_service.cli.secret_variables import SECRET_VARIABLES, required_key  # noqa: PLC0415  # the same

    secrets_of_the_request = set(run_options.secrets) - SECRET_VARIABLES  # the others reach the service over a pipe
    environ = {name: value for name, value in os.environ.items() if name not in secrets_of_the_request}
    root = root or stored_root(Target(), run_options.execution_id, run_options.session_id)
    if root is not None:
        # A session's own directory is below the root that the service has.
        has_own = root.name == run_options.session_id and environ.get("SANDBOX_SCOPE") == "session"
        environ["SANDBOX_ROOT_DIR"] = str((root.parent if has_own else root).absolute())
    own = PrivateService(environ)
    if not own.is_running():
        chosen = cast("Provider", provider) or own.settings.stigmer_llm_provider
        own.add_keys(required_key(own.settings, chosen))
    return own


async def _start_detached(request: runner_pb2.ExecuteAgentRequest, target: Target, own: "PrivateService | None") -> int:
    async with (
        opened_view(ViewOptions.QUIET, hint="") as view,
        connected(target, own, view.show_message) as connection,
        aclosing(connection.client.execute(request)) as events,
    ):
        with _explained_conflict(request.execution_id, target):
            async for event in events:  # the first one says that it was accepted
                click.echo(event.execution_id)
                break
    return ExitCode.SUCCEEDED


async def _run(
    request: runner_pb2.ExecuteAgentRequest,
    options: ViewOptions,
    target: Target,
    own: "PrivateService | None",
    *,
    waits: bool,
) -> int:
    with cancelled_by_termination():
        return await _run_in_view(request, options, target, own, waits=waits)


async def _run_in_view(
    request: runner_pb2.ExecuteAgentRequest,
    options: ViewOptions,
    target: Target,
    own: "PrivateService | None",
    *,
    waits: bool,
) -> int:
    async with (
        opened_view(options, hint="Ctrl-C cancels") as view,
        connected(target, own, view.show_message) as connection,
    ):
        prompt = ApprovalPrompt(connection.client, request.execution_id, view) if is_interactive() else None
        run = Run(connection, request, view, prompt, waits_for_approvals=waits)
        if prompt and request.session_id:
            await prompt.ask_about_session(request.session_id)
        with counting_interrupts() as interrupts, _explained_conflict(request.execution_id, target):
            ways = [run.follow(), run.handle_interrupts(interrupts)]
            return await _first_completed(*ways, *([prompt.ask_forever()] if prompt else []))


class Run:
    """An execution and its caller."""

    def __init__(
        self,
        connection: Connection,
        request: runner_pb2.ExecuteAgentRequest,
        view: View,
        prompt: ApprovalPrompt | None,
        *,
        waits_for_approvals: bool,
    ) -> None:
        self._connection = connection
        self._request = request
        self._view = view
        self._prompt = prompt
        self._waits_for_approvals = waits_for_approvals
        self._provider = request.agent.model.provider
        self._seen = 0
        self._cancelled = False

    async def follow(self) -> int:
        """Shows the events to the end, and returns the exit code of the outcome."""
        exit_code = ExitCode.FAILED
        async with aclosing(self._connection.client.execute(self._request)) as events:
            async for event in events:
                self._connection.report_recovery()
                self._seen = event.sequence
                self._view.show(event)
                if self._prompt:
                    self._prompt.observe(event)
                elif event.HasField("approval_requested"):
                    await self._decide_without_terminal(event.approval_requested)
                if event.HasField("started"):
                    self._provider = event.started.model.provider
                if event.HasField("finished"):
                    exit_code = exit_code_for(event.finished.state)
                    self._suggest_next_step(event.finished.error.code)
        return ExitCode.INTERRUPTED if self._cancelled and exit_code == ExitCode.CANCELLED else exit_code

    def _suggest_next_step(self, code: str) -> None:
        if code in _MODEL_FAILURES and self._connection.target.server is None:
            self._view.show_message(_next_step_for_model(self._provider))

    async def handle_interrupts(self, interrupts: Interrupts) -> int:
        """Waits for Ctrl-C, then cancels the execution or detaches from it. Returns the exit code."""
        await interrupts.next()
        if self._prompt and self._prompt.is_asking:
            await self._detach()
            self._view.show_message(f"left waiting; to decide: runner-service approve {self._request.execution_id}")
            return ExitCode.INTERRUPTED
        self._view.show_message("Ctrl-C: cancelling in a second; press it again to leave the execution running")
        if await interrupts.next_before(_CANCEL_DELAY_SECONDS):
            await self._detach()
            self._view.show_message(f"left running; to return: {self._attach_command()}")
            return ExitCode.INTERRUPTED
        self._cancelled = True
        await self._cancel()
        await interrupts.next()
        self._view.show_message(f"the cancel is under way; to see its end: {self._attach_command()}")
        return ExitCode.INTERRUPTED

    async def _decide_without_terminal(self, request: event_pb2.ApprovalRequested) -> None:
        """Refuses, as nobody is there to ask, unless --approvals wait leaves it to another terminal."""
        if self._waits_for_approvals:
            return
        decision = Decision("reject", "nobody is there to approve this")
        await submit(self._connection.client, self._request.execution_id, request, decision)

    async def _cancel(self) -> None:
        try:
            await self._connection.client.cancel(self._request.execution_id, "Ctrl-C")
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            raise CommandError("given up before the service took it", ExitCode.INTERRUPTED) from error

    async def _detach(self) -> None:
        """Detaches. Asking for the newest event again makes the service answer at once."""
        try:
            async with asyncio.timeout(_DETACH_TIMEOUT_SECONDS):
                await self._connection.client.detach(self._request.execution_id, max(0, self._seen - 1))
        except TimeoutError:
            if self._seen:  # otherwise there is just no event to answer with yet
                raise CommandError(
                    f"the service does not answer; the execution may be cancelled. To see: {self._attach_command()}",
                    ExitCode.UNAVAILABLE,
                ) from None

    def _attach_command(self) -> str:
        return f"runner-service events {self._request.execution_id} --follow{self._connection.target.flags()}"


def _next_step_for_model(provider: str) -> str:
    if provider != "ollama":
        return "`MODE=local runner-service check` tries the model's provider; --model names another one"
    from runner_service.cli.environment import settings_from  # noqa: PLC0415  # for this only

    address = settings_from({**os.environ, "MODE": "local"}).llm_base_url("ollama")
    return (
        f"is Ollama at {address}? `ollama serve` starts it, `ollama list` shows its models, OLLAMA_BASE_URL says where "
        "it is; --model names another provider's model, and --model scripted needs none"
    )


@contextmanager
def _explained_conflict(execution_id: str, target: Target) -> Iterator[None]:
    """Explains ALREADY_EXISTS in terms of the command line."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.ALREADY_EXISTS:
            raise
        raise CommandError(
            f"there is an execution {execution_id} already, of another request\n"
            f"`runner-service events {execution_id}{target.flags()}` shows it; for a new one choose another --id."
        ) from error


async def _first_completed(*ways: Coroutine[Any, Any, int]) -> int:
    """Returns the result of the first to complete; cancels the others."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
