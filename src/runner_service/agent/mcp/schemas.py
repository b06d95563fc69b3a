"""Makes schemas of tools' arguments ones that every provider takes: objects without combinations at the top."""

from collections.abc import Mapping, Sequence
from typing import Any

_COMBINATIONS = ("anyOf", "oneOf", "allOf")
_UNSUPPORTED = ("not", "enum", "const", "if", "then", "else", "dependentSchemas", "dependentRequired")


def object_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a schema with the properties of all alternatives; required are those that every alternative requires.

    What the alternatives say beyond that is lost to the model; the server checks the arguments.
    """
    flat: dict[str, Any] = {"properties": {}, **schema, "type": "object"}
    for name in _COMBINATIONS:
        parts = flat.pop(name, None)
        if isinstance(parts, Sequence):
            _merge(
                flat, [_resolved(each, schema) for each in parts if isinstance(each, Mapping)], all_of=name == "allOf"
            )
    for name in _UNSUPPORTED:
        flat.pop(name, None)
    flat["required"] = [each for each in flat.get("required", []) if each in flat["properties"]]
    if not flat["required"]:
        del flat["required"]
    return flat


def _merge(flat: dict[str, Any], parts: Sequence[Mapping[str, Any]], *, all_of: bool) -> None:
    for part in parts:
        properties = part.get("properties")
        if isinstance(properties, Mapping):
            flat["properties"] = {**properties, **flat["properties"]}
    required = [set(each.get("required") or ()) for each in parts if each.get("type", "object") == "object"]
    if required:
        common = set.union(*required) if all_of else set.intersection(*required)
        flat["required"] = [*flat.get("required", []), *sorted(common - set(flat.get("required", [])))]


def _resolved(part: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follows one reference to a definition of the same schema."""
    reference = part.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return part
    found: Any = schema
    for name in reference[2:].split("/"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
