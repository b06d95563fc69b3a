"""YAML without surprises: every scalar is a string, keys are unique, and there are no aliases and no tags."""

from collections.abc import Sequence
from typing import Any

import yaml

MAX_BYTES = 1 << 20
_MAX_DEPTH = 20

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is six times as fast
Location = Sequence[int | str]


class StrictYamlError(Exception):
    """The text is not such a document. The message names the line."""


class Document:
    """A document as plain values: mappings, lists and strings."""

    def __init__(self, root: yaml.Node | None) -> None:
        self._root = root
        self.value: Any = _value(root) if root else None

    def line_of(self, location: Location) -> int:
        """Returns the line, from 1, of the value at a location, or of the nearest one around it."""
        node = self._root
        for part in location:
            following = _child(node, part)
            if following is None:
                break
            node = following
        return node.start_mark.line + 1 if node else 1


def read_document(data: bytes) -> Document:
    """Reads a document of at most `MAX_BYTES`.

    Raises:
        StrictYamlError: it is not one.
    """
    if len(data) > MAX_BYTES:
        raise StrictYamlError(f"it has more than {MAX_BYTES} bytes")
    try:
        text = data.decode()
        _require_flat(text)
        return Document(yaml.compose(text, Loader=_Loader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise StrictYamlError(f"{where}it is not YAML: {problem}") from None


def _require_flat(text: str) -> None:
    """Checks the events one by one: composing nodes recurses, and libyaml's composer would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise _error(event, "aliases are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise _error(event, "it is nested too deeply")


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return node.value
    if isinstance(node, yaml.SequenceNode):
        return [_value(each) for each in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        if not name or name in found:
            raise _error(key, f"the key {name!r} is there twice" if name else "a key is not a text")
        found[name] = _value(value)
    return found


def _child(node: yaml.Node | None, part: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part]  # type: ignore[no-any-return]  # the stubs do not say
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    return None


def _error(node: yaml.Node | yaml.Event, text: str) -> StrictYamlError:
    mark = node.start_mark
    return StrictYamlError(f"line {mark.line + 1 if mark else 1}: {text}")
