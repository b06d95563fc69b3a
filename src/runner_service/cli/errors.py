"""Exit codes, the error that ends a command, and messages on stderr."""

from enum import IntEnum
from typing import TYPE_CHECKING

import click

from runner_service.cli.progress import clear_progress

if TYPE_CHECKING:
    from runner_service.states import State


class ExitCode(IntEnum):
    """What the exit code of every command means."""

    SUCCEEDED = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    UNAVAILABLE = 69
    DEFECT = 70
    LOG_UNAVAILABLE = 75
    NO_PERMISSION = 77
    CONFIG = 78
    TIMED_OUT = 124
    INTERRUPTED = 130
    NO_READER = 141
    TERMINATED = 143


_STATE_EXIT_CODES = {
    "STATE_SUCCEEDED": ExitCode.SUCCEEDED,
    "STATE_CANCELLED": ExitCode.CANCELLED,
    "STATE_TIMED_OUT": ExitCode.TIMED_OUT,
}


def exit_code_for(state: "State") -> ExitCode:
    """Returns the exit code for the final state of an execution."""
    from runner_service import states  # noqa: PLC0415  # not needed to parse a command line

    return _STATE_EXIT_CODES.get(states.state_name(state), ExitCode.FAILED)


_EXIT_CODES_HELP = """\b
Exit codes:
    0  it succeeded
    1  it failed, or a request was refused
    2  the command line is wrong
    3  the execution was cancelled by somebody else
   69  the service cannot be reached, or cannot start
   75  STATE_DIR is held by another service, or its log cannot be opened
   77  the service wants another token
   78  the environment is wrong, or lacks something
  124  the execution ran out of time
  130  Ctrl-C: cancelled, or left running when pressed twice
  141  whoever read the output has gone
  143  SIGTERM or SIGHUP; the execution is left as if the connection had broken"""


def help_epilog(*examples: str) -> str:
    """Returns the epilog of a command's help: examples, and the exit codes."""
    return "\n".join(["\b", "Examples:", *(f"  {example}" for example in examples), "", _EXIT_CODES_HELP])


class CommandError(click.ClickException):
    """Ends a command. The text says what is wrong, and what to do next; it holds no secret."""

    def __init__(self, text: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]  # click has it on the class, and reads it from the instance

    def show(self, file: object = None) -> None:
        """Writes the text to stderr."""
        del file  # errors go to stderr, whatever click says
        print_message(self.message)


def print_message(text: str) -> None:
    """Prints a message to stderr, apart from the output of the command."""
    clear_progress()
    click.echo(f"runner-service: {text}", err=True)
