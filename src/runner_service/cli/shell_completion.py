"""Shell completion of ids, from a running service. None is started for it."""

from collections.abc import Callable
from contextlib import suppress

import click
from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def completes(what: str) -> Completer:
    """Returns the completer of `executions`, `open executions`, `sessions`, or the `calls` of an execution."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del parameter
        found: dict[str, str] = {}
        with suppress(Exception):  # completion cannot report errors; the command will
            from runner_service.cli.completion_candidates import candidates  # noqa: PLC0415  # gRPC, for this only

            found = candidates(what, context.params)
        return [CompletionItem(name, help=about) for name, about in found.items() if name.startswith(incomplete)]

    return complete
