"""`check`, `health`, `version` and `completion`."""

import json
from collections.abc import Callable
from typing import Any

import click

from runner_service.cli.errors import help_epilog
from runner_service.cli.target import Target, target_options
from runner_service.version import VERSION

SHELLS = ("bash", "zsh", "fish")


@click.command(
    short_help="Shows the settings, and what is wrong with them.",
    epilog=help_epilog("runner-service check", "MODE=local STIGMER_LLM_PROVIDER=openai runner-service check"),
)
def check() -> int:
    """Shows the settings that the environment makes for `serve`, tries what can be tried, and says what to do.

    MODE unset means cloud, as for `serve`; `run` takes it for local. Secrets are masked. The exit code is 1 when
    something would keep the service from working.
    """
    from runner_service.cli.actions.check import print_checks  # noqa: PLC0415  # gRPC, for this only

    return print_checks()


@click.command(epilog=help_epilog("runner-service health", "runner-service health --server localhost:50051"))
@target_options
def health(target: Target) -> None:
    """Tells by its exit code whether the service takes executions; for containers and scripts. It needs no token."""
    from runner_service.cli.actions.health import check_health  # noqa: PLC0415  # only needed here

    check_health(target)


@click.command(epilog=help_epilog("runner-service version", "runner-service version --json"))
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
def version(*, as_json: bool) -> None:
    """Prints the versions of the service and of what it stands on."""
    _print_version(as_json=as_json)


def version_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--version`, which does the same."""

    def print_and_exit(context: click.Context, parameter: click.Parameter, value: bool) -> None:  # click's
        del parameter
        if value and not context.resilient_parsing:
            _print_version(as_json=False)
            context.exit()

    option = click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=print_and_exit,
        help="The same as `version`.",
    )
    return option(command)


def _print_version(*, as_json: bool) -> None:
    import platform  # noqa: PLC0415  # with the next one 30 ms, for this only
    from importlib.metadata import version as version_of  # noqa: PLC0415  # see above

    facts = {
        "version": VERSION,
        "python": platform.python_version(),
        "grpc": version_of("grpcio"),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    text = "runner-service {version} (Python {python}, gRPC {grpc}, {platform})".format_map(facts)
    click.echo(json.dumps(facts) if as_json else text)


@click.command(
    epilog=help_epilog(
        "runner-service completion bash > ~/.local/share/bash-completion/completions/runner-service",
        "runner-service completion zsh > ~/.zfunc/_runner-service",
        "runner-service completion fish > ~/.config/fish/completions/runner-service.fish",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Prints what makes SHELL complete the commands and options."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415  # only needed here

    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(script(context.find_root().command, {}, "runner-service", "_RUNNER_SERVICE_COMPLETE").source())
