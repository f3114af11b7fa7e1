"""GQL: from its text to the JSON of a query or an aggregation query, which then obeys their rules.

https://cloud.google.com/datastore/docs/reference/gql_reference
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from gce_backend.localcloud.datastore.requests import GqlParameter, GqlQuery, Json
from gce_backend.localcloud.statuses import invalid

MAX_NESTING = 20
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<quoted>`(?:[^`\\]|\\.)+`)"
    r"|(?P<name>[A-Za-z_$][\w$]*(?:\.[A-Za-z_$][\w$]*)*)"
    r"|(?P<bound>@(?:\d+|[A-Za-z_$][\w$]*))"
    r"|(?P<sign><=|>=|!=|[=<>(),*+])|(?P<end>$))",
    re.ASCII | re.DOTALL,
)
_MAX_DIGITS = 10
_COUNT = re.compile(rf"[0-9]{{1,{_MAX_DIGITS}}}")
_ESCAPED = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}
_OPERATORS = {
    "=": "EQUAL",
    "!=": "NOT_EQUAL",
    "<": "LESS_THAN",
    "<=": "LESS_THAN_OR_EQUAL",
    ">": "GREATER_THAN",
    ">=": "GREATER_THAN_OR_EQUAL",
    "IN": "IN",
    "CONTAINS": "EQUAL",
}
_AGGREGATIONS = {"COUNT", "COUNT_UP_TO", "SUM", "AVG"}
_CONSTANTS: dict[str, Json] = {
    "TRUE": {"booleanValue": True},
    "FALSE": {"booleanValue": False},
    "NULL": {"nullValue": None},
}
_CALLS = {"KEY", "ARRAY", "BLOB", "DATETIME"}

T = TypeVar("T")


class _Token(NamedTuple):
    kind: str
    text: str


class GqlParser:
    """One GQL query.

    Args:
        gql: its text and what is bound to it.

    Raises:
        ServiceError: 400, the text holds what is no part of GQL.
    """

    def __init__(self, gql: GqlQuery) -> None:
        self._gql = gql
        self._tokens = _tokens(gql.query_string)
        self._at = 0
        self._used: set[int] = set()
        self._depth = 0

    def parse(self) -> tuple[Json, list[Json]]:
        """The JSON Query, and the JSON Aggregations over it; none for a plain query.

        Raises:
            ServiceError: 400, it is malformed, or its bindings do not fit.
        """
        if self._took("AGGREGATE"):
            aggregations = self._several(self._aggregation)
            self._expect("OVER", "(")
            query, inner = self._select()
            self._expect(")")
            if inner:
                raise invalid("GQL: an aggregation is over a plain SELECT")
        else:
            query, aggregations = self._select()
        if self._peek().kind != "end":
            raise self._unexpected()
        if self._used != set(range(1, len(self._gql.positional_bindings or ()) + 1)):
            raise invalid("GQL: the numbered bindings and those in the text differ")
        return query, aggregations

    def _select(self) -> tuple[Json, list[Json]]:
        self._expect("SELECT")
        query: Json = {}
        aggregations: list[Json] = []
        if self._took("DISTINCT", "ON"):
            self._expect("(")
            query["distinctOn"] = [{"name": name} for name in self._several(self._name)]
            self._expect(")")
        distinct = "distinctOn" not in query and self._took("DISTINCT")
        if self._word() in _AGGREGATIONS and self._word(1) == "(":
            aggregations = self._several(self._aggregation)
        elif not self._took("*"):
            names = self._several(self._name)
            query["projection"] = [{"property": {"name": name}} for name in names]
            if distinct:
                query["distinctOn"] = [{"name": name} for name in names]
        if self._took("FROM"):
            query["kind"] = [{"name": self._name()}]
        if self._took("WHERE"):
            query["filter"] = self._either()
        if self._took("ORDER", "BY"):
            query["order"] = self._several(self._order)
        if self._took("LIMIT"):
            query |= self._bound_or_count("endCursor", "limit")
        if self._took("OFFSET"):
            query |= self._bound_or_count("startCursor", "offset")
        return query, aggregations

    def _aggregation(self) -> Json:
        kind = self._word()
        if kind not in _AGGREGATIONS:
            raise self._unexpected()
        self._next()
        self._expect("(")
        found: Json
        if kind == "COUNT":
            self._expect("*")
            found = {"count": {}}
        elif kind == "COUNT_UP_TO":
            found = {"count": {"upTo": str(self._count())}}
        else:
            found = {kind.lower(): {"property": {"name": self._name()}}}
        self._expect(")")
        return found | ({"alias": self._name()} if self._took("AS") else {})

    def _order(self) -> Json:
        name = self._name()
        direction = "DESCENDING" if self._took("DESC") else "ASCENDING"
        self._took("ASC")
        return {"property": {"name": name}, "direction": direction}

    def _either(self) -> Json:
        self._deeper()
        found = _joined("OR", self._several(self._all, "OR"))
        self._depth -= 1
        return found

    def _all(self) -> Json:
        return _joined("AND", self._several(self._condition, "AND"))

    def _condition(self) -> Json:
        if self._took("("):
            found = self._either()
            self._expect(")")
            return found
        name = self._name()
        if self._took("IS"):
            self._expect("NULL")
            return _compared(name, "EQUAL", _CONSTANTS["NULL"])
        if self._took("HAS", "ANCESTOR"):
            return _compared(name, "HAS_ANCESTOR", self._value())
        if self._took("NOT", "IN"):
            return _compared(name, "NOT_IN", self._array())
        operator = _OPERATORS.get(self._word())
        if operator is None:
            raise self._unexpected()
        self._next()
        return _compared(name, operator, self._array() if operator == "IN" else self._value())

    def _array(self) -> Json:
        """A value that may leave out the word ARRAY."""
        if not self._took("("):
            return self._value()
        values = self._several(self._value)
        self._expect(")")
        return {"arrayValue": {"values": values}}

    def _value(self) -> Json:
        token = self._next()
        if token.kind == "bound":
            return self._binding(token).value or {"nullValue": None}
        if self._gql.allow_literals is not True:
            raise invalid(f"GQL: literals such as {token.text[:80]} need allowLiterals")
        if token.kind == "text":
            return {"stringValue": _plain(token.text)}
        if token.kind == "number":
            whole = re.fullmatch(r"[+-]?\d+", token.text)
            return {"integerValue": token.text} if whole else {"doubleValue": float(token.text)}
        word = token.text.upper() if token.kind == "name" else ""
        if word in _CONSTANTS:
            return dict(_CONSTANTS[word])
        if word not in _CALLS:
            raise self._unexpected(token)
        self._deeper()
        self._expect("(")
        found = self._called(word)
        self._expect(")")
        self._depth -= 1
        return found

    def _called(self, word: str) -> Json:
        if word == "KEY":
            return {"keyValue": self._key()}
        if word == "ARRAY":
            return {"arrayValue": {"values": self._several(self._value)}}
        return {{"BLOB": "blobValue", "DATETIME": "timestampValue"}[word]: self._text()}

    def _key(self) -> Json:
        partition: Json = {}
        for word, member in (("PROJECT", "projectId"), ("NAMESPACE", "namespaceId")):
            if self._took(word, "("):
                partition[member] = self._text()
                self._expect(")", ",")
        path = self._several(self._element)
        return {"path": path} | ({"partitionId": partition} if partition else {})

    def _element(self) -> Json:
        kind = self._text() if self._peek().kind == "text" else self._name()
        self._expect(",")
        value = self._value()
        name = {"name": value.get("stringValue", "")}
        return {"kind": kind} | ({"id": value["integerValue"]} if "integerValue" in value else name)

    def _bound_or_count(self, cursor: str, count: str) -> Json:
        if self._peek().kind != "bound":
            return {count: self._count()}
        bound = self._binding(self._next())
        if bound.cursor is None:
            number = str((bound.value or {}).get("integerValue"))
            if not _COUNT.fullmatch(number):
                raise invalid(f"GQL: a {count} is a cursor or a whole number from 0 on")
            return {count: int(number)}
        return {cursor: bound.cursor} | ({count: self._count()} if self._took("+") else {})

    def _count(self) -> int:
        token = self._next()
        if token.kind != "number" or not _COUNT.fullmatch(token.text):
            raise self._unexpected(token)
        return int(token.text)

    def _text(self) -> str:
        token = self._next()
        if token.kind != "text":
            raise self._unexpected(token)
        return _plain(token.text)

    def _name(self) -> str:
        token = self._next()
        if token.kind not in {"name", "quoted"}:
            raise self._unexpected(token)
        return token.text if token.kind == "name" else _plain(token.text)

    def _binding(self, token: _Token) -> GqlParameter:
        name = token.text[1:]
        if _COUNT.fullmatch(name):
            self._used.add(int(name))
            found = dict(enumerate(self._gql.positional_bindings or (), 1)).get(int(name))
        else:
            found = (self._gql.named_bindings or {}).get(name)
        if found is None:
            raise invalid(f"GQL: nothing is bound to {token.text[:80]}")
        return found

    def _several(self, parse: Callable[[], T], between: str = ",") -> list[T]:
        found = [parse()]
        while self._took(between):
            found.append(parse())
        return found

    def _peek(self, ahead: int = 0) -> _Token:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def _word(self, ahead: int = 0) -> str:
        """A token as a keyword or a sign; "" for what cannot be one."""
        token = self._peek(ahead)
        return token.text.upper() if token.kind in {"name", "sign"} else ""

    def _next(self) -> _Token:
        self._at += 1
        return self._peek(-1)

    def _took(self, *words: str) -> bool:
        """Whether these words come next; if so, they are taken."""
        if any(self._word(ahead) != word for ahead, word in enumerate(words)):
            return False
        self._at += len(words)
        return True

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise invalid(f"GQL: it is nested deeper than {MAX_NESTING}")

    def _expect(self, *words: str) -> None:
        for word in words:
            if not self._took(word):
                raise self._unexpected()

    def _unexpected(self, token: _Token | None = None) -> Exception:
        text = (token or self._peek()).text[:80]
        return invalid(
            f"GQL: {text!r} is not expected here" if text else "GQL: the text ends early"
        )


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise invalid(f"GQL: {text[at : at + 80]!r} is no part of a query")
        found.append(_Token(match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


def _plain(quoted: str) -> str:
    """A text or a name without its quotes and escapes."""
    return re.sub(r"\\(.)", lambda it: _ESCAPED.get(it[1], it[1]), quoted[1:-1], flags=re.DOTALL)


def _compared(name: str, op: str, value: Json) -> Json:
    return {"propertyFilter": {"property": {"name": name}, "op": op, "value": value}}


def _joined(op: str, filters: list[Json]) -> Json:
    return filters[0] if len(filters) == 1 else {"compositeFilter": {"op": op, "filters": filters}}
