"""Cursors: positions in a query's order, which stay valid whatever changes."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from gce_backend.localcloud.datastore.keys import KeyPath
from gce_backend.localcloud.datastore.plans import Descending, Plan
from gce_backend.localcloud.datastore.storage import StorageEntry
from gce_backend.localcloud.datastore.values import SortKey, comparable_type
from gce_backend.localcloud.statuses import invalid


def position(plan: Plan, row: tuple[SortKey, ...], path: KeyPath) -> Any:  # comparable in one plan
    """Where a plan that is sorted finds an entity."""
    return plan.order_of(row), Descending(path) if plan.backwards else path


def row_at(entry: StorageEntry) -> tuple[SortKey, ...]:
    """The values of the columns by which a plan found an entity."""
    return tuple(map(_plain, entry.position[0]))


def _plain(value: Any) -> Any:  # a part of a position
    return value.value if isinstance(value, Descending) else value


def cursor_after(plan: Plan, entry: StorageEntry) -> str:
    """The cursor right after an entry."""
    where = [entry.position]
    if plan.is_sorted:
        where = [row_at(entry), _plain(entry.position[1])]
    return base64.urlsafe_b64encode(msgspec.json.encode(where)).decode()


def parse_cursor(plan: Plan, text: str) -> Any:  # the sort key of the plan's entries
    """The position that a cursor encodes.

    Raises:
        ServiceError: it is not a cursor, or a cursor of another query.
    """
    try:
        raw = base64.urlsafe_b64decode(text)
        if not plan.is_sorted:
            return msgspec.json.decode(raw, type=tuple[KeyPath])[0]
        found, path = msgspec.json.decode(raw, type=tuple[tuple[tuple[int, Any], ...], KeyPath])
        row = tuple((rank, msgspec.convert(it, comparable_type(rank))) for rank, it in found)
        return position(plan, row, path)
    except (ValueError, KeyError):
        raise invalid("the cursor is not one of this query") from None
