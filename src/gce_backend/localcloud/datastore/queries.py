"""Runs plans on the entities of one moment."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from gce_backend.localcloud.datastore.conditions import KEY
from gce_backend.localcloud.datastore.cursors import (
    cursor_after,
    parse_cursor,
    position,
    row_at,
)
from gce_backend.localcloud.datastore.masks import Path
from gce_backend.localcloud.datastore.plans import Plan
from gce_backend.localcloud.datastore.storage import Entities, Span, StorageEntry, StorageRow
from gce_backend.localcloud.datastore.values import value_of_entry


class Queries:
    """Runs plans."""

    MEMOS = 32
    """Most sorted lists that are kept, so that a query's later batches need no sorting."""

    def __init__(self) -> None:
        self._sorted: dict[bytes, tuple[object, list[StorageEntry]]] = {}

    def matches(self, plan: Plan, entities: Entities) -> Iterator[tuple[StorageEntry, StorageRow]]:
        """The matches between a plan's cursors, in its order, before offset and limit.

        Raises:
            ServiceError: a cursor belongs to another query.
        """
        entries, start, stop = (
            self._walk(plan, entities) if plan.is_sorted else _between_keys(plan, entities)
        )
        if plan.start:
            start = bisect_right(entries, parse_cursor(plan, plan.start), start, stop, key=_place)
        if plan.end:
            stop = bisect_right(entries, parse_cursor(plan, plan.end), start, stop, key=_place)
        for at in range(start, stop):
            entry = entries[at]
            row = entities.get(entry.name)
            if row is not None and (plan.is_sorted or plan.matches(row.properties, entry.position)):
                yield entry, row

    def _walk(self, plan: Plan, entities: Entities) -> Span:
        """The entries of a plan's columns, sorted once for each state of its index."""
        state = entities.state_of(plan.index)
        known, entries = self._sorted.pop(plan.memo, (None, []))
        if known != state:
            entries = sorted(_along(plan, entities), key=_place)
            if plan.distinct:
                by_value = groupby(entries, key=lambda entry: row_at(entry)[: plan.distinct])
                entries = [next(same) for _, same in by_value]
        self._sorted[plan.memo] = (state, entries)
        if len(self._sorted) > self.MEMOS:
            del self._sorted[next(iter(self._sorted))]
        return Span(entries, 0, len(entries))


def _between_keys(plan: Plan, entities: Entities) -> Span:
    """The entries of the index that the plan's conditions on keys permit."""
    ancestor = plan.alternatives[0].ancestor  # that of all
    entries, start, stop = entities.span(plan.index, ancestor)
    if len(plan.alternatives) == 1:
        for condition in plan.alternatives[0].ranges.get(KEY, ()):
            _, path = condition.wanted[0]
            if condition.op in {"GREATER_THAN", "GREATER_THAN_OR_EQUAL"}:
                start = bisect_left(entries, path, start, stop, key=_place)
            elif condition.op in {"LESS_THAN", "LESS_THAN_OR_EQUAL"}:
                stop = bisect_right(entries, path, start, stop, key=_place)
    return Span(entries, start, stop)


def _along(plan: Plan, entities: Entities) -> Iterator[StorageEntry]:
    span = entities.span(plan.index, plan.alternatives[0].ancestor)
    for at in range(span.start, span.stop):
        path, name = span.entries[at]
        row = entities.get(name)
        if row is not None:
            for values in plan.values(row.properties, path):
                yield StorageEntry(position(plan, values, path), name)


def _place(entry: StorageEntry) -> Any:  # a position
    return entry.position


def result(
    plan: Plan, entry: StorageEntry, row: StorageRow, paths: list[Path] | None
) -> dict[str, Any]:
    """The JSON EntityResult of a match, of whole entities with the properties of `paths` alone."""
    found: dict[str, Any] = {"cursor": cursor_after(plan, entry)}
    if plan.projection is None:
        found.update(row.to_json(paths))
    elif plan.projection:
        names = [column.name for column in plan.columns]
        wanted = dict(zip(names, row_at(entry), strict=True))
        stored = row.properties
        properties = {
            name: value_of_entry(stored[name], wanted[name], plan.index.project)
            for name in plan.projection
        }
        found["entity"] = {"key": row.encoded_key, "properties": properties}
    else:
        found["entity"] = {"key": row.encoded_key}
    return found
