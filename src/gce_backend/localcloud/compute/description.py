"""Google's own description of the served methods: paths, parameters, bodies and answers.

`description.json` is a short form of Google's discovery document; a test compares the two. A shape
is the name of a type, `#Name` of a schema, a list with the shape of its elements, or an object of
members, in which the member `*` means any name.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import msgspec

Shape = Any


class Method(msgspec.Struct, frozen=True):
    """One method.

    Attributes:
        verb: the HTTP verb.
        path: below the API's root, with its variables in braces.
        parameters: its query parameters' types, by name.
        request: the shape of its body; None when it has none.
        response: the shape of its answer.
    """

    verb: str
    path: str
    parameters: dict[str, str]
    request: Shape = None
    response: Shape = None


class _Description(msgspec.Struct, frozen=True):
    methods: dict[str, Method]
    schemas: dict[str, Shape]


@cache
def _description() -> _Description:
    raw = resources.files(__package__).joinpath("description.json").read_bytes()
    return msgspec.json.decode(raw, type=_Description)


def method(name: str) -> Method:
    """The method `compute.resource.method`."""
    return _description().methods[name]


def resolved(shape: Shape) -> Shape:
    """The shape that a schema's name stands for; any other shape as it is."""
    if isinstance(shape, str) and shape.startswith("#"):
        return _description().schemas[shape[1:]]
    return shape


def members(shape: Shape, name: str) -> list[Shape]:
    """The shapes of the members that a name means; for a list, those of its elements.

    Args:
        shape: the shape that has the members.
        name: a member's name, or `*` for all of them.
    """
    shape = resolved(shape)
    while isinstance(shape, list):
        shape = resolved(shape[0])
    if shape == "any":
        return [shape]
    if not isinstance(shape, dict):
        return []
    if name == "*":
        return list(shape.values())
    return [shape[key] for key in (name, "*") if key in shape][:1]


@cache
def listed(name: str) -> Shape:
    """The shape of a list method's items; of an aggregated one, of the items in its scopes."""
    answer = method(name).response
    [found] = members(answer, "items") or members(answer, "managedInstances")
    if isinstance(found, list):
        return found[0]
    scope = resolved(found["*"])
    return next(shape[0] for shape in scope.values() if isinstance(shape, list))
