"""Writes docs/conformance.md from the conformance suite of the executors. With --check, only reports drift."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("conformance.md")
SUITE = ROOT / "tests" / "executors" / "conformance"
CHAPTERS = ("test_commands", "test_output", "test_input", "test_tree", "test_files", "test_search", "test_confinement")

INTRODUCTION = """\
# Executor conformance

This page is generated from [the suite](../tests/executors/conformance) by `make docs`. Each row is a test of the
Protocol in `runner_service.executors.protocol`; ✓: the executor of that column must pass it.
"""

FAULTS_HEADING = """\
## Common faults of local executors

Each fault, what happens here, and the test that proves it.

| fault | behaviour | test |
| --- | --- | --- |
"""

FAULTS = [
    (
        "a time-out with children in the background",
        "returns on time, nothing is left",
        "test_tree.test_a_time_out_ends_every_descendant",
    ),
    (
        "the call is cancelled",
        "nothing is left before the cancellation goes on",
        "test_tree.test_a_cancel_ends_every_descendant_before_it_goes_on",
    ),
    (
        "a child under `setsid`, forked twice, or without environment",
        "ended with the rest",
        "test_tree.test_the_end_of_the_execution_ends_what_its_commands_left",
    ),
    (
        "the service is killed by SIGKILL",
        "nothing is left",
        "test_deaths.test_the_death_of_the_service_ends_every_descendant",
    ),
    (
        "a fork bomb",
        "ended and reported; other commands go on",
        "test_watchdog.test_a_fork_bomb_is_ended_with_all_its_processes",
    ),
    (
        "a command that uses too much memory",
        "ended before the machine has none left",
        "test_watchdog.test_a_hog_of_memory_is_ended_and_said_to_be_one",
    ),
    ("bytes that are not UTF-8", "exact", "test_output.test_all_byte_values_survive"),
    ("10 MB in one line", "exact", "test_output.test_ten_megabytes_in_one_line_arrive"),
    (
        "`sleep 6 & echo`",
        "returns at once, the child lives until the execution ends",
        "test_tree.test_a_command_returns_although_a_child_holds_its_pipe",
    ),
    ("a command that reads stdin", "end of file at once", "test_commands.test_stdin_is_closed"),
    ("200 MB of output", "exact", "test_output.test_two_hundred_megabytes_arrive_completely"),
    (
        "200 MB of output, memory",
        "less than 20 MB more",
        "test_local_executor.test_two_hundred_megabytes_cost_less_than_twenty_of_memory",
    ),
]


def page() -> str:
    """Returns the whole page."""
    sys.path.insert(0, str(ROOT))
    executors = list(import_module("tests.executors.conftest").EXECUTORS)
    chapters = [_chapter(import_module(f"tests.executors.conformance.{name}"), executors) for name in CHAPTERS]
    return "\n".join([INTRODUCTION, _faults(), *chapters])


def _faults() -> str:
    rows = [f"| {what} | {here} | {_sentence(_existing(case))} |" for what, here, case in FAULTS]
    return FAULTS_HEADING + "\n".join(rows) + "\n"


def _existing(case: str) -> str:
    """Returns the name of a test, which has to exist."""
    module, _, name = case.partition(".")
    folder = "conformance" if module in CHAPTERS else "local"
    getattr(import_module(f"tests.executors.{folder}.{module}"), name)
    return name


def _chapter(module: ModuleType, executors: Sequence[str]) -> str:
    title, _, rest = (module.__doc__ or "").partition(": ")
    table = f"| case | {' | '.join(executors)} |\n| --- |{' --- |' * len(executors)}\n"
    head = f"## {title}\n\n{rest.strip().capitalize()}\n\n{table}"
    return head + "".join(f"| {_case(test)} |{' ✓ |' * len(executors)}\n" for test in _tests(module))


def _tests(module: ModuleType) -> Iterator[Callable[..., object]]:
    for name, value in vars(module).items():
        if name.startswith("test_") and inspect.isfunction(value) and value.__module__ == module.__name__:
            yield value


def _case(test: Callable[..., object]) -> str:
    names = ", ".join(_variants(test))
    return _sentence(test.__name__) + (f": {names}" if names else "")


def _variants(test: Callable[..., object]) -> list[str]:
    """Returns the names that the suite gives to the variants of a case, if it names them."""
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize" and "ids" in mark.kwargs:
            return [str(name) for name in mark.kwargs["ids"]]
    return []


def _sentence(name: str) -> str:
    words = name.removeprefix("test_").replace("_", " ")
    words = re.sub(r"\b(nul|utf|sigterm|cpu|ascii|svg|dos)\b", lambda found: found[0].upper(), words)
    words = re.sub(r"\bthe (caller|service|shell|kernel|command)s\b", r"the \1's", words)
    return (words[0].upper() + words[1:]).replace("UTF 8", "UTF-8").replace("kib", "KiB").replace("Set e ", "`set -e` ")


def main() -> int:
    """Writes the page, or with --check compares it with what is there; 1 when it has drifted."""
    wanted = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    print("docs/conformance.md has drifted from the suite: run python docs/generate_conformance.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
