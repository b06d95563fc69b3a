"""Matches shell commands against the words of rules, by a real parser.

`matches_all` is for ALLOW rules and errs on the side of "no"; `mentions` is for ASK and DENY rules and errs on the side
of "yes". Neither resists a disguise: `r""m` is not seen as `rm`. Against hostile commands there is confinement.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

Words = tuple[str, ...]

MAX_PARSED_BYTES = 16 * 1024
"""A longer text is not parsed: it counts as more than simple commands."""

_MAX_COMMANDS = 100

# Kinds of nodes of which a plain text consists. Everything else, such as an expansion, makes it not plain.
_STRUCTURE = frozenset({"program", "list", "pipeline", "subshell", "negated_command", "redirected_statement"})
_TOKENS = frozenset({"&&", "||", ";", "|", "(", ")", "!", "\n", "comment"})

# A tilde behind a letter or digit, as in `HEAD~1`, is itself; elsewhere it may become a directory.
_PLAIN_WORD = re.compile(r"(?:[\w@%+=:,./^-]|(?<=\w)~)+")
_NOT_LITERAL_IN_QUOTES = re.compile(r"[$`\\!]")
_NULL_REDIRECT = re.compile(r"(?:[012]?>{1,2}|&>{1,2}|[012]?<)\s*/dev/null|[012]?>&[12]")
_TOKEN = re.compile(r"[^\s;&|()<>`'\"$\\{}]+")

_INTERPRETERS = frozenset(
    """
    ash awk bash busybox csh dash env eval exec expect fish ksh lua node perl php python python2 python3 ruby sh sudo su
    tclsh xargs zsh
    """.split()  # noqa: SIM905  # a list would take a line for each
)
_WRAPPERS = _INTERPRETERS | frozenset(
    """
    . builtin chroot command coproc docker doas find flock gawk ionice make nice nohup parallel podman screen script sed
    setsid source ssh stdbuf strace time timeout tmux trap unshare watch
    """.split()  # noqa: SIM905  # as above
)
"""Programs that run other commands, or text as a program."""

_NEVER_PLAIN = "\0\r\\"
"""Characters that the parser and the shell do not treat alike: `ls\\<newline>attr` is one word for the shell alone."""

_GIT_OPTIONS_WITH_VALUE = frozenset({"-C", "-c", "--git-dir", "--work-tree", "--namespace", "--config-env"})


@dataclass(frozen=True)
class ShellText:
    """A command text as rules see it. `commands` are the words of its simple commands if it is plain, else None."""

    text: str
    commands: tuple[Words, ...] | None

    def matches_all(self, rules: Sequence[Words]) -> bool:
        """True if the text is plain, and each of its commands begins with the words of a rule."""
        commands = self.commands or ()
        return bool(commands) and all(any(_allows(rule, command) for rule in rules) for command in commands)

    def mentions(self, rule: Words) -> bool:
        """True if a command in the text begins with the words of the rule, or if that cannot be ruled out."""
        if self.commands is None:
            return _contains(_tokens(self.text), rule)
        return any(_mentions(command, rule) for command in self.commands)


@cache
def _parser() -> "Parser":
    import tree_sitter_bash  # noqa: PLC0415  # only needed with a policy
    from tree_sitter import Language, Parser  # noqa: PLC0415  # as above

    return Parser(Language(tree_sitter_bash.language()))


def parse(text: str) -> ShellText:
    """Parses a command text. Takes some 40 µs, at most a few milliseconds."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > MAX_PARSED_BYTES or any(each in text for each in _NEVER_PLAIN):
        return ShellText(text, None)
    root = _parser().parse(data).root_node
    if root.has_error:
        return ShellText(text, None)
    try:
        commands = tuple(_simple_commands(root))
    except _NotPlainError:
        return ShellText(text, None)
    return ShellText(text, commands if 0 < len(commands) <= _MAX_COMMANDS else None)


class _NotPlainError(Exception):
    """The text is more than simple commands of plain words."""


def _simple_commands(root: "Node") -> Iterator[Words]:
    todo = [root]
    while todo:
        node = todo.pop()
        if node.type == "command":
            yield tuple(_words(node))
        elif node.type == "file_redirect":
            if not _NULL_REDIRECT.fullmatch(_text(node)):
                raise _NotPlainError
        elif node.type in _STRUCTURE:
            todo += reversed(node.children)
        elif node.type not in _TOKENS:
            raise _NotPlainError


def _words(command: "Node") -> Iterator[str]:
    for child in command.children:
        if child.type == "file_redirect":
            if not _NULL_REDIRECT.fullmatch(_text(child)):
                raise _NotPlainError
        elif child.type == "command_name":
            yield _literal(child.children[0])
        else:
            yield _literal(child)


def _literal(node: "Node") -> str:
    """Returns what the shell makes of a word. Raises _NotPlainError if that depends on anything but the word."""
    text = _text(node)
    match node.type:
        case "word" | "number" if _PLAIN_WORD.fullmatch(text):
            return text
        case "raw_string":
            return text[1:-1]
        case "string" if not _NOT_LITERAL_IN_QUOTES.search(text):
            return text[1:-1]
        case "concatenation":
            return "".join(map(_literal, node.children))
    raise _NotPlainError


def _text(node: "Node") -> str:
    return (node.text or b"").decode("utf-8", "surrogatepass")


def _allows(rule: Words, command: Words) -> bool:
    """An interpreter in a command, such as `sh` in `git rebase -x sh`, is allowed only by a rule that names it."""
    return _begins(command, rule) and all(_basename(word) not in _INTERPRETERS or word in rule for word in command)


def _mentions(command: Words, rule: Words) -> bool:
    if _begins((_basename(command[0]), *command[1:]), rule):
        return True
    if _basename(command[0]) == "git":
        return _begins(tuple(_without_git_options(command)), rule)
    return _basename(command[0]) in _WRAPPERS and _contains([each for word in command for each in _tokens(word)], rule)


def _begins(command: Words, rule: Words) -> bool:
    return command[: len(rule)] == rule


def _contains(tokens: Sequence[str], rule: Words) -> bool:
    starts: Callable[[int], Words] = lambda at: tuple(_without_git_options(tokens[at : at + len(rule) + 16]))  # noqa: E731
    return any(token == rule[0] and _begins(starts(at), rule) for at, token in enumerate(tokens))


def _tokens(text: str) -> list[str]:
    return [_basename(each) for each in _TOKEN.findall(text)]


def _basename(word: str) -> str:
    return word.rpartition("/")[2] or word


def _without_git_options(words: Sequence[str]) -> Iterator[str]:
    """Leaves out what stands between `git` and its command."""
    rest = iter(words)
    program = _basename(next(rest))
    yield program
    for word in rest:
        if program != "git" or not word.startswith("-"):
            yield word
            break
        if word in _GIT_OPTIONS_WITH_VALUE:
            next(rest, None)
    yield from rest
