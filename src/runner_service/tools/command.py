"""A command of the agent: its output to the log as it comes, and to the model when it has ended."""

from runner_service.errors import SandboxEnd
from runner_service.executors import Command, CommandResult, SandboxError, Stream
from runner_service.tools.excerpt import Excerpt
from runner_service.tools.scope import RunningCall, RunScope

OUTPUT_MOUNT = "/tool_output"
"""Where the agent's file tools find what commands wrote: `<mount>/<tool call id>.stdout` and `….stderr`."""


_STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")
_READ_BYTES = 1024 * 1024


class CommandOutput:
    """Takes what a command writes: redacts it, publishes it, and keeps an excerpt for the model.

    After `end` it goes to the call's file only: it comes from processes that the command left behind. What such a
    process holds back at the end of the sandbox, because it may be the beginning of a secret, is never shown.
    """

    def __init__(self, scope: RunScope, call: RunningCall) -> None:
        self._events = scope.run.events
        self._call = call
        self._redactors = {name: scope.run.redactor.stream() for name in ("stdout", "stderr")}
        self._room = scope.run.limits.max_output_bytes
        self._ended = False
        self._published_before = {"stdout": 0, "stderr": 0}
        self.excerpt = Excerpt()
        self.written = {"stdout": 0, "stderr": 0}
        self.kept = {"stdout": 0, "stderr": 0}
        self.dropped = 0
        self.result: CommandResult | None = None

    async def pass_over_published(self) -> None:
        """Does not publish again what an earlier process has, when the command's output comes from its first byte."""
        for stream in _STREAMS:
            offset = 0
            while data := await self._events.read_output(self._call.id, stream, offset, _READ_BYTES):
                offset += len(data)
            self._published_before[stream] = offset

    async def write(self, stream: Stream, data: bytes) -> None:
        """Takes the next bytes of `stream`; waits while the log is behind."""
        self.written[stream] += len(data)
        self._pass_on(stream, self._redactors[stream].feed(data))
        await self._events.room()

    def end(self, result: CommandResult | None) -> None:
        """Lets go what was held back. `result` is None when the command was cancelled."""
        for stream in _STREAMS:
            self._pass_on(stream, self._redactors[stream].flush())
        self._ended = True
        self.result = result

    def _pass_on(self, stream: Stream, data: bytes) -> None:
        if not data:
            return
        if not self._ended:
            self.excerpt.add(stream, data)
        kept = data[: self._room]
        self.dropped += len(data) - len(kept)
        self._room -= len(kept)
        self.kept[stream] += len(kept)
        kept = kept[self._passed_over(stream, len(kept)) :]
        if kept and self._ended:
            self._events.store_late_output(self._call.id, stream, kept)
        elif kept:
            self._events.publish_output(self._call.id, stream, kept, sub_agent_id=self._call.sub_agent_id)

    def _passed_over(self, stream: Stream, size: int) -> int:
        known = min(self._published_before[stream], size)
        self._published_before[stream] -= known
        return known


async def run_command(scope: RunScope, call: RunningCall, text: str, wish: float | None) -> tuple[str, int]:
    """Runs a command in the sandbox, or goes on with it; returns what the model is shown, and the exit code.

    `wish` is how many seconds the model would give it; the request's limit caps it. The rest is in `call.output`.

    Raises:
        SandboxEnd: the sandbox is lost.
    """
    limit = scope.run.limits.command_timeout.ToTimedelta().total_seconds()
    output = call.output = scope.outputs[call.id] = CommandOutput(scope, call)
    timeout = min(wish or limit, limit)
    result = None
    try:
        result = await _result(scope, call, Command(text, timeout, output, name=call.id))
    except SandboxError as error:
        text = scope.run.redactor.text(str(error))
        raise SandboxEnd(text, code=error.code, retryable=error.retryable) from error
    finally:
        output.end(result)
    call.interrupted = bool(result.lost)
    return output.excerpt.text(_gap(call, output)) + _remark(result, timeout), result.exit_code


async def _result(scope: RunScope, call: RunningCall, command: Command) -> CommandResult:
    if not call.resumes:
        return await scope.run.sandbox.run(command)
    await scope.outputs[call.id].pass_over_published()
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
