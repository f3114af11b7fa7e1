"""Plans: queries that obey the rules, and the indexes that they need.

A plan walks along the keys, or along the values of one property or several (its columns). Every
property has a built-in index. What needs a composite index is served as if somebody had declared
it; the plan says which one that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import total_ordering
from itertools import product
from math import prod
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from gce_backend.localcloud.datastore.conditions import (
    KEY,
    Alternative,
    alternatives,
    values_of,
)
from gce_backend.localcloud.datastore.keys import Index, KeyPath
from gce_backend.localcloud.datastore.requests import QueryMessage
from gce_backend.localcloud.datastore.storage import StorageChange, StorageRow
from gce_backend.localcloud.datastore.values import SortKey
from gce_backend.localcloud.statuses import invalid

_METADATA_KINDS = {"__kind__", "__namespace__", "__property__"}
MAX_ENTRIES = 20_000
"""The most entries that one entity may have in an index: Google's limit."""

ResultType: TypeAlias = Literal["FULL", "PROJECTION", "KEY_ONLY"]


@total_ordering
class Descending:
    """A value, or a key, that sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:  # a SortKey or a KeyPath
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descending) and bool(self.value == other.value)

    def __lt__(self, other: Descending) -> bool:
        return bool(other.value < self.value)

    def __hash__(self) -> int:
        return hash(self.value)


class Column(NamedTuple):
    """The property whose values a plan reads in order."""

    name: str
    descending: bool


class Plan(msgspec.Struct):
    """A query that can be run.

    Attributes:
        index: the entities that it reads.
        memo: the name of the sorted list that it reads.
        alternatives: an entity passes when it passes one of them.
        columns: what it walks along; nothing for the keys.
        backwards: whether equal entries come in the descending order of their keys.
        composite: the definition of the composite index that it needs, "" for none.
        projection: the properties wanted; None for all, empty for keys only.
        distinct: of how many of the first columns only the first result of each value is wanted.
        limit: the most results; None for no limit.
        offset: how many matches to skip first.
        start: a cursor to begin after, "" for none.
        end: a cursor to stop at, "" for none.
    """

    index: Index
    memo: bytes
    alternatives: list[Alternative]
    columns: tuple[Column, ...]
    backwards: bool
    composite: str
    projection: list[str] | None
    distinct: int
    limit: int | None
    offset: int
    start: str
    end: str

    @property
    def result_type(self) -> ResultType:
        """The type of its results."""
        if self.projection is None:
            return "FULL"
        return "PROJECTION" if self.projection else "KEY_ONLY"

    @property
    def is_sorted(self) -> bool:
        """Whether it walks along a sorted list of its own, and not along the keys."""
        return self.backwards or bool(self.columns)

    def matches(self, properties: dict[str, Any], path: KeyPath) -> bool:
        """Whether an entity passes the filter, with whatever in the columns."""
        project = self.index.project
        return any(part.holds(properties, path, project) for part in self.alternatives)

    def values(self, properties: dict[str, Any], path: KeyPath) -> list[tuple[SortKey, ...]]:
        """The values of the columns by which an entity is among the results.

        One row, or none; for a projection, each different row that arrays make.

        Raises:
            ServiceError: an entity has more entries than an index may have.
        """
        project = self.index.project
        rows: set[tuple[SortKey, ...]] = set()
        for part in self.alternatives:
            if not part.holds(properties, path, project):
                continue
            found = [
                {v for v in values_of(name, properties, path, project) if part.selects(name, v)}
                for name, _ in self.columns
            ]
            if self.result_type != "PROJECTION":
                found = [
                    {max(values) if column.descending else min(values)} if values else values
                    for values, column in zip(found, self.columns, strict=True)
                ]
            if prod(map(len, found)) > MAX_ENTRIES:
                raise invalid(f"an entity has more than {MAX_ENTRIES} entries in this index")
            rows.update(product(*found))
        if self.result_type == "PROJECTION":
            return list(rows)
        return sorted(rows, key=self.order_of)[:1]

    def order_of(self, row: tuple[SortKey, ...]) -> tuple[SortKey | Descending, ...]:
        """What rows of values are sorted by."""
        return tuple(
            Descending(value) if column.descending else value
            for value, column in zip(row, self.columns, strict=True)
        )

    def touched_by(self, change: StorageChange) -> bool:
        """Whether the query finds a changed entity, before or after the change."""
        if not self.index.holds(change.key):
            return False
        return any(
            row is not None and self._finds(row, change.key.path)
            for row in (change.before, change.after)
        )

    def _finds(self, row: StorageRow, path: KeyPath) -> bool:
        if not self.columns:
            return self.matches(row.properties, path)
        return bool(self.values(row.properties, path))


def parse_query(
    query: QueryMessage, partition: tuple[str, str], aggregated: tuple[str, ...] = ()
) -> Plan:
    """The plan of a query.

    Args:
        partition: its project and namespace.
        aggregated: the properties whose sums and averages are wanted.

    Raises:
        ServiceError: it breaks a rule, or asks for what the embedded cloud does not have.
    """
    if query.find_nearest is not None:
        raise invalid("the embedded cloud does not support findNearest")
    index = Index(*partition, query.kind[0].name if query.kind else "")
    if index.kind in _METADATA_KINDS:
        raise invalid(f"the embedded cloud does not support metadata queries ({index.kind})")
    names = [item.property.name for item in query.projection or ()]
    projection = [name for name in names if name != KEY] if names else None
    distinct = [item.name for item in query.distinct_on or ()]
    orders = [(item.property.name, item.direction == "DESCENDING") for item in query.order or ()]
    found = alternatives(query.filter, index)
    columns = _columns(orders, found, [*distinct, *(projection or ()), *aggregated])
    _check_rules(index, orders, found, columns, projection or [])
    _check_distinct(distinct, columns)
    backwards = (KEY, True) in orders
    shape = [index, query.filter, query.order, query.projection, query.distinct_on, aggregated]
    return Plan(
        index=index,
        memo=msgspec.json.encode(shape),
        alternatives=found,
        columns=tuple(columns),
        backwards=backwards,
        composite=_composite(index, found, columns, backwards=backwards),
        projection=projection,
        distinct=len(set(distinct)),
        limit=query.limit,
        offset=query.offset or 0,
        start=query.start_cursor or "",
        end=query.end_cursor or "",
    )


def _columns(
    orders: list[tuple[str, bool]], found: list[Alternative], wanted: list[str]
) -> list[Column]:
    """The columns that an index needs after the properties of equality filters, in order."""
    columns: dict[str, bool] = {}
    for name, descending in orders:
        if name == KEY:
            break  # no two keys are equal: later orders have no effect
        columns.setdefault(name, descending)
    for name in [*_ranged(found), *wanted]:
        columns.setdefault(name, False)
    return [Column(*item) for item in columns.items()]


def _ranged(found: list[Alternative]) -> Iterator[str]:
    for alternative in found:
        yield from (name for name in alternative.ranges if name != KEY)


def _equal(found: list[Alternative]) -> set[str]:
    return {c.name for alternative in found for c in alternative.equalities} - {KEY}


def _check_rules(
    index: Index,
    orders: list[tuple[str, bool]],
    found: list[Alternative],
    columns: list[Column],
    projection: list[str],
) -> None:
    ranged = {name for alternative in found for name in alternative.ranges}
    if orders and ranged and orders[0][0] not in ranged:
        raise invalid(
            "The first sort property must be the same as the property to which the inequality "
            f"filter is applied: {orders[0][0]} is not {', '.join(sorted(ranged))}."
        )
    both = _equal(found).intersection(projection)
    if both:
        raise invalid(f"Cannot use projection on a property with an equality filter: {both.pop()}.")
    if not index.kind and (columns or _equal(found)):
        raise invalid(f"kind is required for all filters and orders except {KEY}.")


def _check_distinct(distinct: list[str], columns: list[Column]) -> None:
    first = {column.name for column in columns[: len(set(distinct))]}
    if first != set(distinct):
        raise invalid(
            "The properties of distinctOn must come before all others in the order: "
            f"{', '.join(sorted(set(distinct) - first))}."
        )


def _composite(
    index: Index, found: list[Alternative], columns: list[Column], *, backwards: bool
) -> str:
    """What the built-in indexes, merged or alone, cannot answer: the index that it takes."""
    if not columns and not backwards:
        return ""
    column = columns[0].name if columns else KEY
    others = _equal(found) - {column}
    under = any(alternative.ancestor is not None for alternative in found)
    by_key = any(
        KEY in alternative.ranges or any(c.name == KEY for c in alternative.equalities)
        for alternative in found
    )
    if len(columns) == 1 and not (backwards or others or under or by_key):
        return ""
    lines = [f"- kind: {index.kind}"]
    if under:
        lines.append("  ancestor: yes")
    lines.append("  properties:")
    wanted = [Column(name, False) for name in sorted(others)] + columns
    for name, descending in [*wanted, *([Column(KEY, True)] if backwards else [])]:
        lines.append(f"  - name: {name}")
        if descending:
            lines.append("    direction: desc")
    return "\n".join(lines) + "\n"
