"""Runs a command for the agent: streams its output to the log, returns an excerpt to the model."""

from runner_service.agent.tools.command_output import CommandOutput
from runner_service.agent.tools.confinement_hint import confinement_hint
from runner_service.agent.tools.scope import RunningCall, RunScope
from runner_service.errors import SandboxEnd
from runner_service.executors.protocol import Command, CommandResult, SandboxError

OUTPUT_MOUNT = "/tool_output"
"""Virtual directory of command outputs for the file tools: `<tool call id>.stdout` and `….stderr`."""


async def run_command(scope: RunScope, call: RunningCall, text: str, requested: float | None) -> tuple[str, int]:
    """Runs or resumes a command in the sandbox; returns the model's excerpt and the exit code.

    `requested` is the model's timeout in seconds, capped by the request's limit. Details are in `call.output`.

    Raises:
        SandboxEnd: the sandbox is lost.
    """
    limit = scope.run.limits.command_timeout.ToTimedelta().total_seconds()
    output = call.output = scope.outputs[call.id] = CommandOutput(scope.run, call.id, call.sub_agent_id)
    timeout = min(requested or limit, limit)
    result = None
    try:
        result = await _result(scope, call, Command(text, timeout, output, name=call.id))
    except SandboxError as error:
        text = scope.run.redactor.text(str(error))
        raise SandboxEnd(text, code=error.code, retryable=error.retryable, fenced_by=error.fenced_by) from error
    finally:
        output.end(result)
    call.interrupted = bool(result.lost)
    scope.has_background_processes |= result.left_processes
    excerpt = output.excerpt.text(_gap(call, output))
    hint = confinement_hint(scope.run.confinement, scope.run.sandbox.root, excerpt) if result.exit_code else ""
    return excerpt + _remark(result, timeout) + hint, result.exit_code


async def _result(scope: RunScope, call: RunningCall, command: Command) -> CommandResult:
    if not call.resumes:
        return await scope.run.sandbox.run(command)
    await scope.outputs[call.id].skip_published()
    return await scope.run.sandbox.resume(command)


def _gap(call: RunningCall, output: CommandOutput) -> str:
    files = [f"read_file {OUTPUT_MOUNT}/{call.id}.{stream}" for stream, size in output.kept.items() if size]
    dropped = f", but for {output.dropped:,} bytes that were thrown away" if output.dropped else ""
    return f"\n[… {output.excerpt.left_out:,} bytes left out; the whole output: {', '.join(files)}{dropped} …]\n"


def _remark(result: CommandResult, timeout: float) -> str:
    if result.lost:
        return f"\n[{result.lost}: look at what it has changed before you decide what to do]"
    if result.start_error:
        return f"\n[The command could not be started: {result.start_error}]"
    if result.timed_out:
        return f"\n[The command took longer than {timeout:g} s and was ended, with all its processes]"
    if excess := result.exceeded:
        return f"\n[The command was ended, with all its processes: it used {excess.text}. {excess.advice}]"
    return ""
