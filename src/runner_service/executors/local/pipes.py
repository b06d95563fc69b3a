"""All pipes of one command: its outputs and, if it is fed, its input."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from runner_service.executors.local.input_pipe import InputPipe
from runner_service.executors.local.output_pipe import OutputPipe
from runner_service.executors.local.supervisor_client import CANNOT_START, StartError
from runner_service.executors.protocol import OutputSink


class Pipes:
    """Opens the pipes; call `close_command_ends` once the command has its ends.

    Raises:
        StartError: no descriptors are free.
    """

    def __init__(self, sink: OutputSink, stdin: AsyncIterator[bytes] | None) -> None:
        self.outputs: list[OutputPipe] = []
        self._input: InputPipe | None = None
        try:
            self.outputs.append(OutputPipe("stdout", sink))
            self.outputs.append(OutputPipe("stderr", sink))
            self._input = InputPipe(stdin) if stdin is not None else None
        except OSError as error:
            self.close_command_ends()
            self.close_service_ends()
            raise StartError(CANNOT_START, f"no pipe for the command: {error.strerror}") from error

    @property
    def command_ends(self) -> Sequence[int]:
        """The descriptors for the command: stdout, stderr, perhaps stdin."""
        return [pipe.writer for pipe in self.outputs] + ([self._input.reader] if self._input else [])

    def close_command_ends(self) -> None:
        """Closes our copies of the command's ends."""
        for pipe in self.outputs:
            pipe.close_writer()
        if self._input:
            self._input.close_reader()

    def close_service_ends(self) -> None:
        """Closes our own ends, when the command was not started."""
        for pipe in self.outputs:
            pipe.close_reader()
        if self._input:
            self._input.close_writer()

    def watch(self, failed: Callable[[BaseException], None]) -> None:
        """Starts reading the output. `failed` is called with an error of the sink."""
        for pipe in self.outputs:
            pipe.watch(failed)

    def feeding(self, failed: Callable[[BaseException], None]) -> AbstractAsyncContextManager[None]:
        """Feeds the command, if it has input, until the context ends. `failed` is called with an error of the input."""
        return self._input.feeding(failed) if self._input else nullcontext()
