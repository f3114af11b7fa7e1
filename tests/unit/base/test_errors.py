"""The one error tree: whatever this project raises on purpose is in it, and its picture is true."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

from gce_backend.base import errors

SOURCES = Path(__file__).parents[3] / "src/gce_backend"
OUTSIDE = {
    "_WrongUsage": "click reports it: a command line that cannot be understood",
    "AgentError": "the agent is one file, which imports nothing of this project",
    "CallRefusedError": "the agent's too",
}
"""Exceptions that are not in the tree, and why not."""
BUILT_IN = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}


def _bases() -> dict[str, list[str]]:
    """The names of the bases of every class of the sources."""
    found: dict[str, list[str]] = {}
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name] = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
    return found


def _is_exception(name: str, bases: dict[str, list[str]]) -> bool:
    if name not in bases:
        return name in BUILT_IN | {"UsageError", "ClickException"}
    return any(_is_exception(base, bases) for base in bases[name])


def test_every_exception_of_the_sources_is_in_the_tree_where_its_picture_shows_it() -> None:
    """Name by name, with its parent: a new one is drawn, or it is outside for a reason."""
    bases = _bases()
    raised = {
        name: found[0] for name, found in bases.items() if found and _is_exception(name, bases)
    }
    drawn: dict[str, str] = {"BackendError": "Exception"}
    above = ["BackendError"]
    for indent, name in re.findall(r"^    ([│ ]*)[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE):
        depth = len(indent) // 4
        drawn[name] = above[depth]
        above[depth + 1 :] = [name]
    assert {name: parent for name, parent in raised.items() if name not in OUTSIDE} == drawn
    assert raised.keys() >= OUTSIDE.keys()
