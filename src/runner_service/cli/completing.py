"""What the shell completes beside commands and options: what the running service knows. None is started for it."""

from collections.abc import Callable
from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from runner_service.cli.target import silence_grpc

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def completer(what: str) -> Completer:
    """Returns what completes `executions`, `open executions`, `sessions`, or the `calls` of an execution."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del parameter
        found: dict[str, str] = {}
        with suppress(Exception):  # there is nobody to tell what is wrong: the command itself will say it
            silence_grpc()
            from runner_service.cli.known import known  # noqa: PLC0415  # gRPC and pydantic, for this only

            found = known(what, context.params)
        return [CompletionItem(name, help=about) for name, about in found.items() if name.startswith(incomplete)]

    return complete
