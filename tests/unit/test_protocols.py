"""An interface is for things of several kinds."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "gce_backend"


def _names(node: ast.ClassDef) -> frozenset[str]:
    """What a class defines: methods, properties, fields, and attributes that it sets on itself."""
    found = set[str]()
    for part in ast.walk(node):
        match part:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                found.add(name)
    return frozenset(found)


def test_a_protocol_has_two_implementations() -> None:
    """A protocol that only one class fulfils is that class, said twice."""
    classes = [
        node
        for path in SOURCE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    names = {node.name: _names(node) for node in classes}
    protocols = {
        node.name
        for node in classes
        if any(ast.unparse(base).partition("[")[0] == "Protocol" for base in node.bases)
    }
    assert protocols
    for one in protocols:
        fulfil = {name for name, has in names.items() if name != one and names[one] <= has}
        assert len(fulfil) > 1, f"{one}: only {fulfil}"
