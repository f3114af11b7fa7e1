r"""Compute's `filter` parameter, read into a predicate on JSON resources.

Comparisons `field op value` with `=`, `!=`, `:` (has), `eq` and `ne` (a regular expression that
matches the whole value), joined by AND, OR, NOT and parentheses; two side by side mean AND.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gce_backend.localcloud.compute.replies import invalid

Predicate = Callable[[Mapping[str, Any]], bool]

_FIELD = re.compile(r"[A-Za-z][\w-]*(?:\.[\w-]+)*")
_OPERATOR = re.compile(r"\s*(!=|=|:)\s*|\s+(eq|ne)\s+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\'')
_WORD = re.compile(r"(AND|OR|NOT)(?=[\s(])")


def parse(text: str | None) -> Predicate:
    """The predicate that a filter means; without a filter, everything passes.

    Raises:
        ServiceError: 400 invalid when the filter cannot be understood.
    """
    if text is None or not text.strip():
        return lambda _: True
    return _Reader(text).whole()


class _Reader:
    """A recursive-descent reader over one filter."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def whole(self) -> Predicate:
        predicate = self._all()
        if self._at < len(self._text):
            raise self._wrong()
        return predicate

    def _wrong(self) -> Exception:
        return invalid(f"Invalid value for field 'filter': '{self._text}'. Invalid list filter.")

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
        if self._word("NOT"):
            inner = self._one()
            return lambda item: not inner(item)
        if self._peek() != "(":
            return self._comparison()
        self._at += 1
        inner = self._all()
        if self._peek() != ")":
            raise self._wrong()
        self._at += 1
        return inner

    def _comparison(self) -> Predicate:
        field = _FIELD.match(self._text, self._at)
        operator = _OPERATOR.match(self._text, field.end()) if field else None
        if field is None or operator is None:
            raise self._wrong()
        self._at = operator.end()
        wanted = self._value()
        path = field[0].split(".")
        symbol = operator[1] or operator[2]
        test = self._test(symbol, wanted)
        if symbol in {"!=", "ne"}:
            return lambda item: not any(test(value) for value in _values(item, path))
        return lambda item: any(test(value) for value in _values(item, path))

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

    def _test(self, symbol: str, wanted: str) -> Callable[[str], bool]:
        if symbol in {"=", "!="}:
            return lambda value: value == wanted
        if symbol == ":":
            return lambda value: wanted == "*" or wanted.lower() in value.lower()
        try:
            pattern = re.compile(wanted)
        except re.error as error:
            raise self._wrong() from error
        return lambda value: pattern.fullmatch(value) is not None


def _values(item: Any, path: list[str]) -> Iterator[str]:
    """Everything that a dotted path leads to, as text; lists are looked into."""
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
