"""Subscriptions' filters: Pub/Sub's language for conditions on attributes.

Source: https://cloud.google.com/pubsub/docs/subscription-message-filter
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

from gce_backend.localcloud.statuses import ServiceError, invalid

MAX_FILTER_BYTES = 256
_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>[A-Za-z_][A-Za-z0-9_\-]*)|(?P<mark>!=|[=:.,()\-]))'
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

Test: TypeAlias = Callable[[Mapping[str, str]], bool]
"""Whether a message with these attributes is delivered."""


@lru_cache(maxsize=256)
def parse_filter(text: str) -> Test:
    """The test of a filter; an empty filter passes every message.

    Raises:
        ServiceError: it is too long or cannot be understood; the message says where.
    """
    if len(text.encode()) > MAX_FILTER_BYTES:
        raise invalid(f"a filter has at most {MAX_FILTER_BYTES} bytes")
    if not text.strip():
        return lambda _: True
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._current = ""
        self._next()

    def parse(self) -> Test:
        test = self._whole()
        if self._current:
            raise self._wrong()
        return test

    def _wrong(self) -> ServiceError:
        found = self._current or "the end"
        return invalid(f"Invalid filter: {found} is not expected there: {self._text!r}")

    def _next(self) -> str:
        """Advances; returns the token that was current."""
        taken = self._current
        rest = self._text[self._at :]
        match = _TOKEN.match(self._text, self._at)
        if match is None and rest.strip():
            raise invalid(f"Invalid filter: {rest.strip()!r} cannot be understood")
        self._current = match[0].strip() if match else ""
        self._at = match.end() if match else len(self._text)
        return taken

    def _expect(self, token: str) -> None:
        if self._current != token:
            raise self._wrong()
        self._next()

    def _whole(self) -> Test:
        """Terms joined only by AND, or only by OR: mixing them needs parentheses."""
        terms = [self._term()]
        joint = self._current
        while joint in {"AND", "OR"} and self._current == joint:
            self._next()
            terms.append(self._term())
        if joint == "OR":
            return lambda attributes: any(term(attributes) for term in terms)
        return lambda attributes: all(term(attributes) for term in terms)

    def _term(self) -> Test:
        if self._current in {"NOT", "-"}:
            self._next()
            test = self._term()
            return lambda attributes: not test(attributes)
        if self._current == "(":
            self._next()
            test = self._whole()
            self._expect(")")
            return test
        if self._current == "hasPrefix":
            return self._prefix()
        return self._comparison()

    def _prefix(self) -> Test:
        self._next()
        self._expect("(")
        self._expect("attributes")
        self._expect(".")
        key = self._key()
        self._expect(",")
        prefix = self._quoted()
        self._expect(")")
        return lambda attributes: attributes.get(key, "").startswith(prefix) and key in attributes

    def _comparison(self) -> Test:
        self._expect("attributes")
        if self._current == ":":
            self._next()
            key = self._key()
            return lambda attributes: key in attributes
        self._expect(".")
        key = self._key()
        if self._current not in {"=", "!="}:
            raise self._wrong()
        equal = self._next() == "="
        value = self._quoted()
        return lambda attributes: key in attributes and (attributes[key] == value) == equal

    def _key(self) -> str:
        if self._current.startswith('"'):
            return self._quoted()
        if not re.match(r"[A-Za-z_]", self._current):
            raise self._wrong()
        return self._next()

    def _quoted(self) -> str:
        if not self._current.startswith('"'):
            raise self._wrong()
        return _ESCAPED.sub(r"\1", self._next()[1:-1])
