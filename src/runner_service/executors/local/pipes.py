"""All pipes of one command: what it writes, and what it reads if it is given something."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from runner_service.executors.local.input_pipe import InputPipe
from runner_service.executors.local.output_pipe import OutputPipe
from runner_service.executors.local.supervisor_client import CANNOT_START, StartError
from runner_service.executors.protocol import OutputSink


class Pipes:
    """Open from the start, each with an end for the command; `hand_over` once it has them.

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
            self.hand_over()
            self.abandon()
            raise StartError(CANNOT_START, f"no pipe for the command: {error.strerror}") from error

    @property
    def far_ends(self) -> Sequence[int]:
        """The descriptors for the command: stdout, stderr, perhaps stdin."""
        return [pipe.writer for pipe in self.outputs] + ([self._input.reader] if self._input else [])

    def hand_over(self) -> None:
        """Leaves the far ends to the command alone."""
        for pipe in self.outputs:
            pipe.close_writer()
        if self._input:
            self._input.close_reader()

    def abandon(self) -> None:
        """Closes the near ends of pipes that no command got."""
        for pipe in self.outputs:
            pipe.abandon()
        if self._input:
            self._input.abandon()

    def watch(self, failed: Callable[[BaseException], None]) -> None:
        """Begins to read the output. An error of the sink goes to `failed`."""
        for pipe in self.outputs:
            pipe.watch(failed)

    def feeding(self, failed: Callable[[BaseException], None]) -> AbstractAsyncContextManager[None]:
        """Feeds the command, if it is to be fed, until the context ends. An error of what feeds it goes to `failed`."""
        return self._input.feeding(failed) if self._input else nullcontext()
