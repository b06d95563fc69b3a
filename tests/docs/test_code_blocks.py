"""What the pages show is well formed, and names what there is; also what the tests do not run."""

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

import click
import pytest
import yaml
from tests.docs.pages import PAGES, REPOSITORY, Block, blocks

from runner_service.cli import commands
from runner_service.models.script import load_script

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_BLOCKS = [block for page in PAGES for block in blocks(page)]
_NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]


@pytest.mark.parametrize("block", _BLOCKS, ids=[block.place for block in _BLOCKS])
def test_a_block_is_well_formed_and_names_what_there_is(block: Block, tmp_path: Path) -> None:
    _CHECKS[block.language](block, tmp_path)


@pytest.mark.parametrize("name", _NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = REPOSITORY / name
    for match in _LINK.finditer(_FENCED.sub("", page.read_text())):
        target, _, anchor = match["target"].partition("#")
        if target.startswith("https:"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{name} links to {target}, which is not there"
        if anchor:
            assert anchor in set(_anchors(file)), f"{name} links to {match['target']}, which has no such heading"


def _check_bash(block: Block, tmp_path: Path) -> None:
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, f"{block.place}: {checked.stderr}"
    for words in _commands(block.text):
        if words[0] == "make":
            for target in [word for word in words[1:] if "=" not in word]:
                assert f"\n{target}:" in (REPOSITORY / "Makefile").read_text(), f"{block.place}: make {target}"
        if words[0] == "runner-service":
            _check_command_line(block, words[1:])


def _check_command_line(block: Block, words: list[str]) -> None:
    """Lets click parse the words, without doing what they say."""
    name, *rest = words
    command = commands.commands.get(name)
    assert command is not None, f"{block.place}: there is no runner-service {name}"
    try:
        command.make_context(name, rest)
    except click.exceptions.Exit:  # of --help
        return
    except click.ClickException as error:
        pytest.fail(f"{block.place}: runner-service {name}: {error.format_message()}")


def _commands(text: str) -> Iterator[list[str]]:
    """Yields the words of each simple command, as far as a glance shows them: no loops, no here-documents."""
    text = re.sub(r"<<'END'.*?^END$", "", text, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    text = re.sub(r" > [\w./-]+$", "", text, flags=re.MULTILINE)
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word and set(word) <= set(";|&"):
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                if words:
                    yield list(takewhile(lambda word: not re.match(r"\d?[<>]", word), words))  # to a redirection
                words = []
            else:
                words.append(word)


def _check_python(block: Block, tmp_path: Path) -> None:
    compile(block.text, block.place, "exec")


def _check_yaml(block: Block, tmp_path: Path) -> None:
    content = yaml.safe_load(block.text)
    assert content
    if "turns" in content:
        script = tmp_path / "script.yaml"
        script.write_text(block.text)
        load_script(script)


def _check_nothing(block: Block, tmp_path: Path) -> None:
    """What a terminal prints is compared where the page is followed; pictures have nothing to check."""


def _anchors(file: Path) -> Iterator[str]:
    for match in _HEADING.finditer(_FENCED.sub("", file.read_text())):
        words = re.sub(r"[^\w\- ]", "", match["text"].replace("`", "").lower())
        yield words.replace(" ", "-")


_CHECKS: dict[str, Callable[[Block, Path], None]] = {
    "": _check_nothing,
    "bash": _check_bash,
    "python": _check_python,
    "text": _check_nothing,
    "yaml": _check_yaml,
}
