"""Cursors: positions in a query's order, so that they stay good whatever changes."""

from __future__ import annotations

import base64
from functools import total_ordering
from typing import Any

import msgspec

from gce_backend.localcloud.datastore.keys import KeyPath
from gce_backend.localcloud.datastore.plans import Plan
from gce_backend.localcloud.datastore.storage import StorageEntry
from gce_backend.localcloud.datastore.values import SortKey, comparable_type
from gce_backend.localcloud.statuses import invalid


@total_ordering
class Descending:
    """A value that sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: SortKey) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descending) and self.value == other.value

    def __lt__(self, other: Descending) -> bool:
        return other.value < self.value

    def __hash__(self) -> int:
        return hash(self.value)


def position(plan: Plan, value: SortKey, path: KeyPath) -> Any:  # comparable within one plan
    """Where a plan that has a column finds an entity."""
    descending = plan.column is not None and plan.column.descending
    return (Descending(value) if descending else value, path)


def value_at(entry: StorageEntry) -> SortKey:
    """The value of the column by which a plan found an entity."""
    found: Descending | SortKey = entry.position[0]
    return found.value if isinstance(found, Descending) else found


def cursor_after(plan: Plan, entry: StorageEntry) -> str:
    """The cursor right after an entry."""
    where = [entry.position]
    if plan.column is not None:
        where = [value_at(entry), entry.position[1]]
    return base64.urlsafe_b64encode(msgspec.json.encode(where)).decode()


def parse_cursor(plan: Plan, text: str) -> Any:  # what the plan's entries are sorted by
    """The position that a cursor encodes.

    Raises:
        ServiceError: it is not a cursor, or one of another query.
    """
    try:
        raw = base64.urlsafe_b64decode(text)
        if plan.column is None:
            return msgspec.json.decode(raw, type=tuple[KeyPath])[0]
        (rank, unknown), path = msgspec.json.decode(raw, type=tuple[tuple[int, Any], KeyPath])
        value = rank, msgspec.convert(unknown, comparable_type(rank))
    except (ValueError, KeyError):
        raise invalid("the cursor is not one of this query") from None
    return position(plan, value, path)
