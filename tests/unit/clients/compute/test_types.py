"""What is asked of Compute is what is read: masks, types and the code that uses them agree."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from gce_backend.clients.compute import types

SOURCES = Path(__file__).parents[4] / "src/gce_backend"
KINDS = [kind for kind in vars(types).values() if isinstance(kind, type) and "FIELDS" in vars(kind)]
AS_A_WHOLE = {"CurrentActions"}
"""Types whose fields are read all together, by nobody's name."""


def wanted(mask: str) -> dict[str, Any]:
    """A mask as a tree: the fields asked for, each with those below it."""
    tree: dict[str, Any] = {}
    stack = [tree]
    path: list[str] = []

    def place(words: list[str]) -> dict[str, Any]:
        node = stack[-1]
        for word in words:
            node = node.setdefault(word, {})
        return node

    for token in re.findall(r"[\w/*]+|[(),]", mask):
        if token == "(":
            stack.append(place(path))
        elif token == ")":
            stack.pop()
        elif token != ",":
            path = token.split("/")
            place(path)
    return tree


def _struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    return next(filter(None, map(_struct_in, get_args(annotation))), None)


def held(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The tree of a type's fields."""
    tree: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        inner = _struct_in(field.type)
        below = held(inner) if inner and inner.__name__ not in AS_A_WHOLE else {}
        by_scope = getattr(field.type, "__origin__", None) is dict and below
        tree[field.encode_name] = {"*": below} if by_scope else below
    return tree


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_mask_asks_for_what_its_type_holds_and_no_more(kind: Any) -> None:
    """Field by field. The list of all VMs leaves out what only one VM is asked for."""
    expected = held(kind)
    if kind is types.InstancePage:
        for name in ("metadata", "serviceAccounts", "machineType"):
            del expected["items"]["*"]["instances"][name]
    assert wanted(kind.FIELDS) == expected


def test_every_field_of_an_answer_is_read_by_somebody() -> None:
    """What nobody reads is neither decoded nor asked for."""
    read = {
        node.attr
        for path in SOURCES.rglob("*.py")
        if "localcloud" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    unread = {
        f"{name}.{field}"
        for name, kind in vars(types).items()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and name not in AS_A_WHOLE
        for field in kind.__struct_fields__
        if field not in read
    }
    assert not unread
