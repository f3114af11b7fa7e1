"""Whether a `fields` mask names fields that the answer has."""

from __future__ import annotations

from typing import Any

from support.discovery.documents import Method, document


def mask_problems(method: Method, mask: str) -> list[str]:
    """The paths in a mask that the method's answer does not have.

    Args:
        method: whose answer it selects from.
        mask: the parameter's value, e.g. `items(name,disks/source),nextPageToken`.
    """
    schemas = document(method.api)["schemas"]
    return _problems(schemas, schemas[method.response], mask)


def _problems(schemas: dict[str, Any], schema: dict[str, Any], mask: str) -> list[str]:
    problems: list[str] = []
    for part in _parts(mask):
        head, _, rest = part.partition("(")
        inner: dict[str, Any] | None = schema
        for word in head.split("/"):
            if inner is not None:
                inner = _field(_resolved(schemas, inner), word)
        if inner is None or (rest and not rest.endswith(")")):
            problems.append(part if rest else head)
        elif rest:
            problems += _problems(schemas, inner, rest[:-1])
    return problems


def _parts(mask: str) -> list[str]:
    """A mask split at the commas outside of all parentheses."""
    parts, depth = [""], 0
    for character in mask:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _resolved(schemas: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema or "items" in schema:
        schema = schemas[schema["$ref"]] if "$ref" in schema else schema["items"]
    return schema


def _field(schema: dict[str, Any], word: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = schema.get("properties", {}).get(word)
    if word == "*":
        found = schema.get("additionalProperties", schema)
    return found
