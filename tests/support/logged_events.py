"""Every event that the source logs, with its levels and fields, as its syntax tree says.

Use it for a test that log events and their documentation agree.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from gce_backend.model.keys import manager_key
from gce_backend.web.documents.orders import _ACTIONS

SRC = Path(__file__).parents[2] / "src" / "gce_backend"
OF_A_JOB = "context.log"
"""The logger that names its job in each line: `engine.context` binds it."""
UNPACKED: Mapping[str, Collection[str]] = {
    "key.log_fields": manager_key("template", "revision", "zone").child("vm").log_fields.keys(),
    "msgspec.structs.asdict(order)": frozenset(),  # the orders' own fields are added below
}
"""The fields that a call unpacks, by what it unpacks."""
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
_LOGS = re.compile(rf"(?:log|get_logger\(\))\s*\.\s*(?:{'|'.join(LEVELS)})\b")
"""What a module has that logs anything."""


class Event(NamedTuple):
    """An event, over all the places that log it.

    Attributes:
        severities: as Cloud Logging calls them.
        fields: their names.
    """

    severities: frozenset[str]
    fields: frozenset[str]


class _Call(NamedTuple):
    """One call that logs: by which method, what, and which fields."""

    severity: str
    event: ast.expr
    fields: frozenset[str]
    at: str


@cache
def logged_events(root: Path = SRC) -> dict[str, Event]:
    """The events by name.

    Raises:
        AssertionError: a call's event or fields cannot be found out.
    """
    severities: defaultdict[str, set[str]] = defaultdict(set)
    fields: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted(root.rglob("*.py")):
        for name, severity, names in _in_module(path):
            severities[name].add(severity)
            fields[name] |= names
    return {name: Event(frozenset(severities[name]), frozenset(fields[name])) for name in fields}


def _in_module(path: Path) -> Iterator[tuple[str, str, frozenset[str]]]:
    source = path.read_text(encoding="utf-8")
    if not _LOGS.search(source):
        return
    module = ast.parse(source)
    for function in ast.walk(module):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for call in _calls(function, path):
            match call.event:
                case ast.Constant(value=str(name)):
                    yield name, call.severity, call.fields
                case ast.Name(id=parameter):
                    for name in _given(module, function, parameter, call.at):
                        yield name, call.severity, call.fields
                case ast.Attribute(attr="event"):  # the orders: their fields are the event's too
                    for action in _ACTIONS.values():
                        own = frozenset(action.kind.__struct_fields__)
                        yield action.event, call.severity, call.fields | own
                case _:
                    raise AssertionError(f"{call.at}: which event is it?")


def _calls(function: ast.AST, path: Path) -> Iterator[_Call]:
    bound = _bound(function)
    for node in ast.walk(function):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        logger = ast.unparse(node.func.value)
        if node.func.attr not in LEVELS or not logger.endswith(("log", "get_logger()")):
            continue
        at = f"{path.name}:{node.lineno}"
        assert node.args, f"{at}: an event comes first"
        unpacked = [ast.unparse(word.value) for word in node.keywords if word.arg is None]
        assert set(unpacked) <= UNPACKED.keys(), f"{at}: which fields are these?"
        names = {word.arg for word in node.keywords if word.arg is not None}
        names = names.union(*(UNPACKED[mapping] for mapping in unpacked))
        if "exc_info" in names or node.func.attr == "exception":
            names = names - {"exc_info"} | {"stack_trace"}
        severity = "ERROR" if node.func.attr == "exception" else node.func.attr.upper()
        yield _Call(severity, node.args[0], frozenset(names) | bound.get(logger, frozenset()), at)


def _bound(function: ast.AST) -> dict[str, frozenset[str]]:
    """The fields that loggers of this function were bound to, by the logger's name."""
    found = {OF_A_JOB: frozenset({"job"})}
    for node in ast.walk(function):
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Attribute(attr="bind"), keywords=words),
            ):
                found[name] = frozenset(word.arg for word in words if word.arg is not None)
    return found


def _given(
    module: ast.Module, function: ast.FunctionDef | ast.AsyncFunctionDef, parameter: str, at: str
) -> list[str]:
    """The events that the module's calls of a function give to a parameter."""
    parameters = [argument.arg for argument in function.args.args if argument.arg != "self"]
    place = parameters.index(parameter)
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name == function.name and len(node.args) > place:
                value = node.args[place]
                assert isinstance(value, ast.Constant), f"{at}: which event is it?"
                found.append(str(value.value))
    assert found, f"{at}: nobody gives it an event"
    return found
