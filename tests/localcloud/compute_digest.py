"""Boils Google's description of Compute down to what the embedded cloud serves.

`PYTHONPATH=src:tests python -m localcloud.compute_digest` writes the file that the embedded cloud
reads, after a method was added or google-api-python-client has a newer description.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gce_backend.base.clock import SystemClock
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.compute import ComputeService, description
from gce_backend.localcloud.tables import Tables
from support.discovery.documents import document, method

API = "compute.v1"
UNLISTED = {"returnPartialSuccess": "boolean"}
"""Parameters of lists that Google's reference pages and clients have, and this description tells
people to set, but does not list."""


def digest(methods: list[str]) -> dict[str, Any]:
    """Paths, parameters and shapes of these methods (`compute.resource.method`).

    A shape is the name of a type, `#Name` of a schema, a list with the shape of its elements, or
    an object of members; the member `*` means any name.
    """
    schemas: dict[str, Any] = {}
    described = {}
    for name in sorted(methods):
        found = method(name).described
        parameters = {
            key: parameter["type"]
            for key, parameter in found.get("parameters", {}).items()
            if parameter["location"] == "query"
        }
        if "pageToken" in parameters:
            parameters |= UNLISTED
        entry: dict[str, Any] = {"verb": found["httpMethod"], "path": found["path"]}
        entry["parameters"] = dict(sorted(parameters.items()))
        for part in ("request", "response"):
            if part in found:
                entry[part] = _shape(found[part], schemas)
        described[name] = entry
    return {"methods": described, "schemas": dict(sorted(schemas.items()))}


def _shape(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    if "$ref" in schema:
        name = schema["$ref"]
        if name not in schemas:
            schemas[name] = {}
            schemas[name] = _shape(document(API)["schemas"][name], schemas)
        return f"#{name}"
    kind = schema.get("type", "any")
    if kind == "array":
        return [_shape(schema["items"], schemas)]
    if kind == "object":
        if "additionalProperties" in schema:
            return {"*": _shape(schema["additionalProperties"], schemas)}
        members = schema.get("properties", {})
        return {name: _shape(member, schemas) for name, member in sorted(members.items())}
    return "int64" if schema.get("format") in {"int64", "uint64"} else kind


def served() -> list[str]:
    """The methods of the embedded Compute Engine."""
    service = ComputeService(Cloud(Tables(None), SystemClock(), CloudOptions()))
    return [*service.reads(), *service.mutations()]


def text() -> str:
    """What the file must hold: a line for each method and schema."""
    parts = []
    for part, entries in digest(served()).items():
        lines = (
            f'"{name}": {msgspec.json.encode(entry).decode()}' for name, entry in entries.items()
        )
        parts.append(f'"{part}": {{\n' + ",\n".join(lines) + "\n}")
    return "{" + ",\n".join(parts) + "}\n"


if __name__ == "__main__":
    Path(description.__file__).with_suffix(".json").write_text(text(), encoding="utf-8")
