"""Queries: from JSON to a plan, and a plan's next batch."""

from __future__ import annotations

import base64
import operator
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import total_ordering
from typing import Any, Literal, TypeAlias

import msgspec

from gce_backend.localcloud.datastore.keys import Index, KeyPath, parse_key
from gce_backend.localcloud.datastore.storage import Entry, Span, Storage, Stored
from gce_backend.localcloud.datastore.values import (
    SortKey,
    elements,
    indexed,
    key_value,
    sort_key,
)
from gce_backend.localcloud.statuses import invalid

KEY = "__key__"
MAX_ALTERNATIVES = 30
_RANGES: dict[str, Callable[[Any, Any], bool]] = {
    "LESS_THAN": operator.lt,
    "LESS_THAN_OR_EQUAL": operator.le,
    "GREATER_THAN": operator.gt,
    "GREATER_THAN_OR_EQUAL": operator.ge,
}

Test: TypeAlias = Callable[[SortKey], bool]
ResultType: TypeAlias = Literal["FULL", "PROJECTION", "KEY_ONLY"]


class Plan(msgspec.Struct):
    """A query that obeys the rules.

    Attributes:
        index: what it looks through.
        memo: names the sorted list that it walks along.
        ancestor: all results are at or under it.
        equalities: by property, tests that each some value must pass.
        ranges: by property, tests that one value must pass all of.
        orders: properties to sort by, each with whether descending; the key comes last.
        projection: the properties wanted; None for all, empty for keys only.
        limit: the most results; None for no limit.
        offset: how many matches to skip first.
        start: a cursor to begin after, "" for none.
        end: a cursor to stop at, "" for none.
    """

    index: Index
    memo: bytes
    ancestor: KeyPath | None = None
    equalities: list[tuple[str, Test]] = msgspec.field(default_factory=list)
    ranges: dict[str, list[Test]] = msgspec.field(default_factory=dict)
    orders: list[tuple[str, bool]] = msgspec.field(default_factory=list)
    projection: list[str] | None = None
    limit: int | None = None
    offset: int = 0
    start: str = ""
    end: str = ""

    @property
    def result_type(self) -> ResultType:
        """What the results hold."""
        if self.projection is None:
            return "FULL"
        return "PROJECTION" if self.projection else "KEY_ONLY"

    def matches(self, row: Stored, path: KeyPath) -> bool:
        """Whether an entity passes the filters."""

        def values(name: str) -> list[SortKey]:
            if name == KEY:
                return [key_value(path)]
            return indexed(row.properties.get(name), self.index.project)

        return (
            all(any(map(test, values(name))) for name, test in self.equalities)
            and all(
                any(all(test(value) for test in tests) for value in values(name))
                for name, tests in self.ranges.items()
            )
            and all(values(name) for name in self.projection or ())
        )


@total_ordering
class Descending:
    """A value that sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:  # anything comparable
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descending) and bool(self.value == other.value)

    def __lt__(self, other: Descending) -> bool:
        return bool(other.value < self.value)

    def __hash__(self) -> int:
        return hash(self.value)


def parse_query(query: Any, partition: tuple[str, str]) -> Plan:  # unchecked JSON
    """The plan of a JSON Query.

    Raises:
        ServiceError: it breaks a rule, or asks for what the embedded cloud does not have.
    """
    if not isinstance(query, dict):
        raise invalid("query must be an object")
    for member in ("distinctOn", "findNearest"):
        if query.get(member):
            raise invalid(f"the embedded cloud does not support {member}")
    kinds = query.get("kind") or []
    if len(kinds) > 1:
        raise invalid("a query has at most one kind")
    index = Index(*partition, kinds[0]["name"] if kinds else "")
    shape = [index, query.get("filter"), query.get("order"), query.get("projection")]
    plan = Plan(index, msgspec.json.encode(shape))
    try:
        if query.get("filter"):
            _add_filter(plan, query["filter"])
        plan.orders = [_order(order) for order in query.get("order") or ()]
        if query.get("projection"):
            names = [item["property"]["name"] for item in query["projection"]]
            plan.projection = [] if names == [KEY] else names
        plan.limit = None if query.get("limit") is None else int(query["limit"])
        plan.offset = int(query.get("offset") or 0)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise invalid(f"the query cannot be understood: {error!r}") from None
    if plan.offset < 0 or (plan.limit is not None and plan.limit < 0):
        raise invalid("limit and offset cannot be negative")
    plan.start, plan.end = query.get("startCursor") or "", query.get("endCursor") or ""
    ranged = [name for name in plan.ranges if name != KEY]
    if ranged and not plan.orders:
        plan.orders = [(ranged[0], False)]
    if plan.orders == [(KEY, False)]:
        plan.orders = []
    return plan


def _order(order: dict[str, Any]) -> tuple[str, bool]:
    return order["property"]["name"], order.get("direction") == "DESCENDING"


def _add_filter(plan: Plan, condition: dict[str, Any]) -> None:
    if "compositeFilter" in condition:
        composite = condition["compositeFilter"]
        if composite["op"] != "AND":
            raise invalid("the embedded cloud supports AND only")
        for part in composite["filters"]:
            _add_filter(plan, part)
        return
    test = condition["propertyFilter"]
    name, op, value = test["property"]["name"], test["op"], test["value"]
    project = plan.index.project
    if op == "HAS_ANCESTOR":
        if name != KEY:
            raise invalid("HAS_ANCESTOR is for __key__")
        plan.ancestor = parse_key(value["keyValue"], project).path
    elif op in {"IN", "NOT_IN"}:
        wanted = {sort_key(element, project) for element in elements(value)}
        if not 1 <= len(wanted) <= MAX_ALTERNATIVES:
            raise invalid(f"{op} takes 1 to {MAX_ALTERNATIVES} values")
        if op == "IN":
            plan.equalities.append((name, lambda found: found in wanted))
        else:
            plan.ranges.setdefault(name, []).append(lambda found: found not in wanted)
    else:
        _add_comparison(plan, name, op, sort_key(value, project))


def _add_comparison(plan: Plan, name: str, op: str, wanted: SortKey) -> None:
    if op == "EQUAL":
        plan.equalities.append((name, lambda found: found == wanted))
    elif op == "NOT_EQUAL":
        plan.ranges.setdefault(name, []).append(lambda found: found != wanted)
    elif op in _RANGES:
        compare = _RANGES[op]
        # Only values of the same type are on one scale.
        plan.ranges.setdefault(name, []).append(
            lambda found: found[0] == wanted[0] and compare(found[1], wanted[1])
        )
    else:
        raise invalid(f"unknown operator {op}")


class Queries:
    """Runs plans.

    Args:
        storage: what they are about.
    """

    MEMOS = 32
    """How many sorted lists are kept, so that a query's later batches need not sort again."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._sorted: dict[bytes, tuple[int, list[Entry]]] = {}

    def matches(self, plan: Plan) -> Iterator[tuple[Entry, Stored]]:
        """The entities between a plan's cursors, in its order, before offset and limit.

        Raises:
            ServiceError: a cursor is not of this query.
        """
        entries, start, stop = self._span(plan)
        if plan.start:
            start = bisect_right(entries, _position(plan, plan.start), start, stop, key=_place)
        if plan.end:
            stop = bisect_right(entries, _position(plan, plan.end), start, stop, key=_place)
        for at in range(start, stop):
            entry = entries[at]
            row = self._storage.get(entry.name)
            if row is not None and (plan.orders or plan.matches(row, entry.position)):
                yield entry, row

    def _span(self, plan: Plan) -> Span:
        span = self._storage.span(plan.index, plan.ancestor)
        if not plan.orders:
            return span
        changed = self._storage.changed(plan.index)
        version, entries = self._sorted.pop(plan.memo, (None, []))
        if version != changed:
            entries = sorted(self._ordered(plan, span), key=_place)
        self._sorted[plan.memo] = (changed, entries)
        if len(self._sorted) > self.MEMOS:
            del self._sorted[next(iter(self._sorted))]
        return Span(entries, 0, len(entries))

    def _ordered(self, plan: Plan, span: Span) -> Iterator[Entry]:
        for at in range(span.start, span.stop):
            path, name = span.entries[at]
            row = self._storage.get(name)
            if row is None or not plan.matches(row, path):
                continue
            position: list[Any] = []
            for order, descending in plan.orders:
                values = (
                    [key_value(path)]
                    if order == KEY
                    else indexed(row.properties.get(order), plan.index.project)
                )
                if not values:
                    break  # what an index does not hold cannot be in its order
                position.append(Descending(max(values)) if descending else min(values))
            else:
                yield Entry((*position, path), name)


def _place(entry: Entry) -> Any:  # a position
    return entry.position


def cursor(plan: Plan, entry: Entry) -> str:
    """The cursor right after an entry: its position, so that it stays good whatever changes."""
    position = entry.position if plan.orders else (entry.position,)
    raw = [part.value if isinstance(part, Descending) else part for part in position]
    return base64.urlsafe_b64encode(msgspec.json.encode(raw)).decode()


def _position(plan: Plan, text: str) -> Any:  # what entries are sorted by
    try:
        parts = _tuples(msgspec.json.decode(base64.urlsafe_b64decode(text)))
    except (ValueError, TypeError):
        raise invalid("the cursor is not valid") from None
    if not isinstance(parts, tuple) or len(parts) != len(plan.orders) + 1:
        raise invalid("the cursor is of another query")
    if not plan.orders:
        return parts[0]
    values = [
        Descending(part) if descending else part
        for part, (_, descending) in zip(parts, plan.orders, strict=False)
    ]
    return (*values, parts[-1])


def _tuples(data: Any) -> Any:  # JSON, with tuples for its lists
    return tuple(_tuples(item) for item in data) if isinstance(data, list) else data


def result(plan: Plan, entry: Entry, row: Stored) -> dict[str, Any]:
    """The JSON EntityResult of a match.

    Raises:
        ServiceError: an array is to be projected, which the embedded cloud does not support.
    """
    found: dict[str, Any] = {"cursor": cursor(plan, entry)}
    if plan.projection is None:
        found["entity"] = {"key": row.key, "properties": row.properties}
        found.update(version=str(row.version), createTime=row.created, updateTime=row.updated)
        return found
    properties = {name: row.properties[name] for name in plan.projection}
    if any("arrayValue" in value for value in properties.values()):
        raise invalid("the embedded cloud does not project arrays")
    found["entity"] = {"key": row.key, "properties": properties} if properties else {"key": row.key}
    return found
