"""Checks JSON against Google's own descriptions of its APIs (the discovery documents)."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import Any

_INT64 = re.compile(r"-?\d+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")


@cache
def document(api: str) -> dict[str, Any]:
    """The description of an API.

    Args:
        api: its name and version, e.g. `compute.v1`.
    """
    package = resources.files("googleapiclient") / "discovery_cache" / "documents"
    loaded: dict[str, Any] = json.loads((package / f"{api}.json").read_text())
    return loaded


def method(api: str, name: str) -> dict[str, Any]:
    """The description of a method, e.g. `compute.instances.get` of `compute.v1`.

    Raises:
        KeyError: there is no such method.
    """
    found: dict[str, Any] = document(api)
    *path, last = name.split(".")[1:]
    for part in path:
        found = found["resources"][part]
    described: dict[str, Any] = found["methods"][last]
    return described


def check_response(api: str, name: str, body: Any) -> list[str]:
    """What is wrong with the body of a successful answer; empty when nothing is."""
    return _check_body(api, method(api, name).get("response"), body)


def check_request(
    api: str, name: str, body: Any = None, query: dict[str, str] | None = None
) -> list[str]:
    """What is wrong with a request's body and query parameters; empty when nothing is."""
    described = method(api, name)
    known = {**document(api).get("parameters", {}), **described.get("parameters", {})}
    problems = [f"?{key}: unknown parameter" for key in query or {} if key not in known]
    return problems + _check_body(api, described.get("request"), body)


def _check_body(api: str, reference: dict[str, str] | None, body: Any) -> list[str]:
    if reference is None:
        return [] if body in (None, {}) else ["a body where none belongs"]
    return list(_problems(document(api)["schemas"], reference, body, reference["$ref"]))


def _problems(schemas: dict[str, Any], schema: dict[str, Any], value: Any, place: str) -> list[str]:
    if "$ref" in schema:
        schema = schemas[schema["$ref"]]
    kind = schema.get("type", "any")
    if kind == "object":
        return _object_problems(schemas, schema, value, place)
    if kind == "array":
        if not isinstance(value, list):
            return [f"{place}: not a list: {value!r}"]
        return [
            problem
            for index, element in enumerate(value)
            for problem in _problems(schemas, schema["items"], element, f"{place}[{index}]")
        ]
    return [] if _fits(schema, kind, value) else [f"{place}: {value!r} does not fit {kind}"]


def _object_problems(
    schemas: dict[str, Any], schema: dict[str, Any], value: Any, place: str
) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place}: not an object: {value!r}"]
    problems = []
    for name, inner in value.items():
        below = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        if below is None:
            problems.append(f"{place}.{name}: unknown field")
        else:
            problems += _problems(schemas, below, inner, f"{place}.{name}")
    return problems


def _fits(schema: dict[str, Any], kind: str, value: Any) -> bool:
    if kind == "any":
        return True
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in {"integer", "number"}:
        allowed = int if kind == "integer" else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool)
    if not isinstance(value, str):
        return False
    checks = [
        "enum" not in schema or value in schema["enum"],
        "pattern" not in schema or re.fullmatch(schema["pattern"], value) is not None,
        schema.get("format") not in {"int64", "uint64"} or _INT64.fullmatch(value) is not None,
        schema.get("format") != "byte" or _BASE64.fullmatch(value) is not None,
    ]
    return all(checks)
