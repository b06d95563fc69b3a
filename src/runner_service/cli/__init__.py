"""The command line. The modules here declare commands and options; `actions` does what they say.

Parsing imports little; what a command does is imported when it runs.
"""

import os
import sys
from typing import Any

import click

from runner_service.cli.approvals import approvals, approve, reject
from runner_service.cli.changes import diff, undo
from runner_service.cli.diagnostics import check, completion, health, version, version_option
from runner_service.cli.errors import ExitCode, help_epilog, print_message
from runner_service.cli.executions import cancel, delete, events, output, ps
from runner_service.cli.run import run
from runner_service.cli.serve import serve
from runner_service.cli.token import token
from runner_service.cli.web import web

DEBUG_VARIABLE = "RUNNER_SERVICE_DEBUG"


class _Commands(click.Group):
    """Lists its commands in the order given, and handles a closed output pipe."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns their names."""
        del ctx
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command, and returns what it does."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would call it a failure
            return _discard_output()


@click.group(
    cls=_Commands,
    epilog=help_epilog(
        'runner-service run "make the tests pass"       an agent works in ./workspace',
        'runner-service run --model scripted "hello"    the same, with a model that plays a script',
        "runner-service ps                              what is running",
        "MODE=local runner-service serve                a service for other programs",
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@version_option
def commands() -> None:
    """Runs AI agents, and shows what they do."""


for command in (
    run,
    serve,
    events,
    ps,
    cancel,
    output,
    diff,
    undo,
    delete,
    approvals,
    approve,
    reject,
    web,
    token,
    check,
    health,
    version,
    completion,
):
    commands.add_command(command)


def main() -> None:
    """Runs the command that sys.argv asks for, and exits."""
    sys.exit(_run_guarded())


def _run_guarded() -> int:
    """Returns the exit code. A traceback is shown only if DEBUG_VARIABLE is set."""
    try:
        code = commands.main(prog_name="runner-service", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return _discard_output()
    except Exception as error:  # noqa: BLE001  # the last guard before the terminal
        return _report_defect(error)
    return int(code or 0)


def _discard_output() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its exit
    return ExitCode.NO_READER


def _report_defect(error: Exception) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        import traceback  # noqa: PLC0415  # 7 ms, for defects only

        traceback.print_exception(error)
    kind = type(error).__name__
    print_message(f"internal error: {kind}; set {DEBUG_VARIABLE}=1 for the traceback")
    return ExitCode.DEFECT
