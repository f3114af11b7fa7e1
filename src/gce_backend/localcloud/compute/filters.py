r"""Compute's `filter` parameter, read into a predicate on JSON resources.

There are two languages, which cannot be mixed in one filter. Comparisons of values: `field op
value` with `=`, `!=`, `<`, `<=`, `>`, `>=` and `:` (has), joined by AND, OR, NOT and parentheses;
two side by side mean AND, and OR binds closer than AND. Regular expressions: `field eq pattern` or
`field ne pattern`, which must match the whole value, one alone or several in parentheses.
"""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gce_backend.localcloud.compute import description
from gce_backend.localcloud.compute.description import Shape
from gce_backend.localcloud.compute.error_replies import invalid_field

Predicate = Callable[[Mapping[str, Any]], bool]
_Test = Callable[[str], bool]
_NAME = "name"
_LITERAL = re.compile(r"[a-z0-9-]*(?![?*+{a-z0-9-])")

_FIELD = re.compile(r"[A-Za-z][\w-]*(?:\.[\w-]+)*")
_OPERATOR = re.compile(r"\s*(!=|<=|>=|=|<|>|:)\s*|\s+(eq|ne)\s+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\'')
_WORD = re.compile(r"(AND|OR|NOT)(?=[\s(])")
_PATTERNS = {"eq", "ne"}
_NEGATIONS = {"!=", "ne"}
_DEEPEST = 50
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Filter(NamedTuple):
    """A filter.

    Attributes:
        passes: whether a resource passes.
        passes_name: what the filter says of names alone: a resource passes only if its name does.
        prefixes: each name that passes begins with one of them.
    """

    passes: Predicate
    passes_name: Callable[[str], bool]
    prefixes: tuple[str, ...]


ALL = Filter(lambda _: True, lambda _: True, ("",))
"""What there is without a filter."""


def parse(text: str | None, shape: Shape) -> Filter:
    """Reads a filter; without a filter, everything passes.

    Args:
        text: the filter.
        shape: the shape of the resources, which defines the fields.

    Raises:
        ServiceError: 400 invalid when the filter cannot be understood.
    """
    if text is None or not text.strip():
        return ALL
    return _FilterReader(text, shape).whole()


class _FilterReader:
    """A recursive-descent reader over one filter."""

    def __init__(self, text: str, shape: Shape) -> None:
        self._text = text
        self._shape = shape
        self._at = 0
        self._depth = 0
        self._operators: list[str] = []
        self._fields: list[str] = []
        self._patterns: list[str] = []
        self._is_bare = False
        self._has_words = False

    def whole(self) -> Filter:
        parts, named = list[Predicate](), list[Predicate]()
        prefixes: tuple[str, ...] = ("",)
        while True:
            before = len(self._fields)
            parts.append(self._any())
            fields = self._fields[before:]
            if set(fields) == {_NAME}:
                named.append(parts[-1])
                if len(fields) == 1 and self._operators[-1] == "eq" and not self._has_words:
                    prefixes = _prefixes(self._patterns[-1])
            if not self._word("AND") and self._peek() in {"", ")"}:
                break
        if self._at < len(self._text):
            raise self._wrong()
        patterns = [symbol for symbol in self._operators if symbol in _PATTERNS]
        if patterns and len(patterns) < len(self._operators):
            raise self._wrong("Regular expressions cannot be mixed with other comparisons.")
        if len(patterns) > 1 and (self._is_bare or self._has_words):
            raise self._wrong("Several regular expressions must each stand in parentheses.")

        def passes_name(name: str) -> bool:
            return all(part({_NAME: name}) for part in named)

        return Filter(lambda item: all(part(item) for part in parts), passes_name, prefixes)

    def _wrong(self, why: str = "Invalid list filter expression.") -> Exception:
        return invalid_field("filter", self._text, why)

    def _peek(self) -> str:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _word(self, word: str) -> bool:
        self._peek()
        found = _WORD.match(self._text, self._at)
        if found is None or found[1] != word:
            return False
        self._at = found.end()
        self._has_words = True
        return True

    def _all(self) -> Predicate:
        parts = [self._any()]
        while self._word("AND") or self._peek() not in {"", ")"}:
            parts.append(self._any())
        return lambda item: all(part(item) for part in parts)

    def _any(self) -> Predicate:
        parts = [self._one()]
        while self._word("OR"):
            parts.append(self._one())
        return lambda item: any(part(item) for part in parts)

    def _one(self) -> Predicate:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._wrong()
        predicate = self._negation_or_group()
        self._depth -= 1
        return predicate

    def _negation_or_group(self) -> Predicate:
        if self._word("NOT"):
            inner = self._one()
            return lambda item: not inner(item)
        if self._peek() != "(":
            self._is_bare = self._is_bare or self._depth == 1
            return self._comparison()
        self._at += 1
        inner = self._all()
        if self._peek() != ")":
            raise self._wrong()
        self._at += 1
        return inner

    def _comparison(self) -> Predicate:
        field = _FIELD.match(self._text, self._at)
        symbol = _OPERATOR.match(self._text, field.end()) if field else None
        if field is None or symbol is None:
            raise self._wrong()
        path = field[0].split(".")
        self._check_field(path)
        self._at = symbol.end()
        self._fields.append(field[0])
        self._operators.append(symbol[1] or symbol[2])
        test = self._test(self._operators[-1], self._value())
        if self._operators[-1] in _NEGATIONS:
            return lambda item: not any(test(value) for value in _values(item, path))
        return lambda item: any(test(value) for value in _values(item, path))

    def _check_field(self, path: list[str]) -> None:
        shapes = [self._shape]
        for name in path:
            shapes = [below for shape in shapes for below in description.members(shape, name)]
        if not shapes:
            raise self._wrong(f"There is no field '{'.'.join(path)}'.")

    def _value(self) -> str:
        quoted = _QUOTED.match(self._text, self._at)
        if quoted is not None:
            self._at = quoted.end()
            content = quoted[1] if quoted[1] is not None else quoted[2]
            return re.sub(r"\\(.)", r"\1", content)
        start, depth = self._at, 0
        while self._at < len(self._text):
            character = self._text[self._at]
            depth += (character == "(") - (character == ")")
            if depth < 0 or character.isspace():
                break
            self._at += 1
        if start == self._at:
            raise self._wrong()
        return self._text[start : self._at]

    def _test(self, symbol: str, wanted: str) -> _Test:
        if symbol in {"=", "!="}:
            return lambda value: value == wanted
        if symbol in _ORDERS:
            order, bound = _ORDERS[symbol], _sortable(wanted)
            return lambda value: (
                type(known := _sortable(value)) is type(bound) and order(known, bound)
            )
        if symbol == ":":
            return lambda value: wanted == "*" or wanted.lower() in value.lower()
        try:
            pattern = re.compile(wanted)
        except (re.error, RecursionError, OverflowError) as error:
            raise self._wrong("Not a regular expression.") from error
        self._patterns.append(wanted)
        return lambda value: pattern.fullmatch(value) is not None


def _prefixes(pattern: str) -> tuple[str, ...]:
    """What names that match a regular expression begin with: the literals of its alternatives."""
    if "\\" in pattern or "[" in pattern:  # a bar may be part of them
        return ("",)
    parts, depth, start = [], 0, 0
    for place, character in enumerate(f"{pattern}|"):
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            parts.append(pattern[start:place])
            start = place + 1
    found = (_LITERAL.match(part) for part in parts)
    return tuple({literal[0] if literal else "" for literal in found})


def _sortable(text: str) -> float | datetime | str:
    """A number, a time, or the text itself: only values of one kind can be compared."""
    with contextlib.suppress(ValueError):
        return float(text)
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return text


def _values(item: Any, path: list[str]) -> Iterator[str]:
    """All values at a dotted path, as text; a list counts as its elements."""
    if isinstance(item, list):
        for element in item:
            yield from _values(element, path)
    elif path and isinstance(item, Mapping):
        if path[0] in item:
            yield from _values(item[path[0]], path[1:])
    elif not path and isinstance(item, bool):
        yield str(item).lower()
    elif not path and item is not None:
        yield str(item)
