"""`run`."""

from pathlib import Path
from typing import Any

import click

from runner_service.cli.errors import help_epilog
from runner_service.cli.progress import show_progress
from runner_service.cli.shell_completion import completes
from runner_service.cli.target import Target, target_options
from runner_service.cli.view_options import ViewOptions, view_options


@click.command(
    short_help="Lets an agent work, and shows what it does.",
    epilog=help_epilog(
        'runner-service run "why does test_parser fail?" --root .',
        'runner-service run --model anthropic/claude-sonnet-5.5 --session fix "now fix it"',
        'runner-service run --continue "and add a test"',
        'runner-service run --agent examples/agents/historian.yaml "who changed the parser last?"',
        'git diff | runner-service run --quiet --instructions "You review changes." -',
        'runner-service run --secret GITHUB_TOKEN "open an issue about it"',
        'runner-service run --ask commands "tidy up the branches"',
        'runner-service run --json "list the files" | jq -r .text_delta.text?',
    ),
)
@click.argument("message")
@click.option(
    "--session",
    "session_id",
    default="",
    metavar="ID",
    shell_complete=completes("sessions"),
    help="Goes on with what was said in this session.",
)
@click.option("--continue", "-c", "continues", is_flag=True, help="The same with the newest session here.")
@click.option(
    "--model", default="", metavar="[PROVIDER/]NAME", help="openai, anthropic, ollama or scripted, and a model."
)
@click.option("--instructions", default="", metavar="TEXT|@FILE", help="What the agent is, and how it should work.")
@click.option(
    "--agent",
    "agent_file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="The agent as YAML: instructions, model, skills, MCP servers, sub-agents, limits. Other options go before it.",
)
@click.option(
    "--skill",
    "skills",
    multiple=True,
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    metavar="DIR",
    help="A skill: a directory with SKILL.md.",
)
@click.option("--mcp", "mcp_servers", multiple=True, metavar="COMMAND|URL", help="An MCP server that has more tools.")
@click.option("--env", "variables", multiple=True, metavar="NAME[=VALUE]", help="A variable of the agent's commands.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="The same, from the environment or asked for, and never shown: no log, no event, no prompt holds it.",
)
@click.option(
    "--root", type=click.Path(file_okay=False, path_type=Path), help="Where the agent works. [SANDBOX_ROOT_DIR]"
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="How long it may take.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A mark of your own.")
@click.option(
    "--id", "execution_id", default="", metavar="ID", help="The execution's name; known already: attach to it."
)
@click.option(
    "--ask",
    "asks_about",
    type=click.Choice(["commands", "effects"]),
    help="Asks you before it runs commands, or whatever has effects.",
)
@click.option(
    "--approvals",
    type=click.Choice(["wait", "reject"]),
    default="reject",
    help="Without a terminal: what becomes of calls that ask.",
    show_default=True,
)
@click.option("--detach", is_flag=True, help="Starts it, prints its id, and leaves it running.")
@view_options
@target_options
def run(
    *, root: Path | None, view: ViewOptions, target: Target, asks_about: str | None, approvals: str, **options: Any
) -> int:
    """Lets an agent do what MESSAGE says (`-`: what standard input says), and shows what happens.

    The agent works in ./workspace, or where --root says, with the model of STIGMER_LLM_PROVIDER and STIGMER_LLM_MODEL,
    by default one of Ollama's. What was started is a session of its own unless --session or --continue names one, and
    goes on where that worked. Ctrl-C cancels; pressed twice, it leaves the agent running.
    """
    if options["continues"] and (options["session_id"] or options["execution_id"]):
        raise click.UsageError("--continue takes the newest session: leave --session and --id out")
    if target.server is None:
        show_progress("starting the service")  # the imports below take longer than anybody should look at nothing
    from runner_service.cli.actions.run import run_agent  # noqa: PLC0415  # gRPC, for this only
    from runner_service.cli.run_request import RunOptions  # noqa: PLC0415  # the same

    run_options = RunOptions(**options, asks_about=asks_about or "", waits_for_approvals=approvals == "wait")
    return run_agent(run_options, root, view, target)
