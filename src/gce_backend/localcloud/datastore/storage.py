"""The stored entities, their versions, and the sorted keys that queries read."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.localcloud.datastore.keys import EntityKey, Index, KeyPath, parse_key
from gce_backend.localcloud.datastore.masks import Path, merged
from gce_backend.localcloud.tables import Tables

_AFTER_ALL: tuple[Any, ...] = ("\U0010ffff" * 2,)
"""Sorts after every path element."""


class StorageRow(msgspec.Struct, frozen=True):
    """An entity. Its JSON stays encoded, which takes a fraction of the memory of its objects.

    Attributes:
        encoded_key: its JSON Key.
        encoded: its JSON properties.
        version: the version of the last commit that changed it.
        created: RFC 3339 time.
        updated: RFC 3339 time.
    """

    encoded_key: msgspec.Raw = msgspec.field(name="key")
    encoded: msgspec.Raw = msgspec.field(name="properties")
    version: int
    created: str
    updated: str

    @property
    def key(self) -> dict[str, Any]:
        """Its JSON Key, decoded anew each time."""
        found: dict[str, Any] = msgspec.json.decode(self.encoded_key)
        return found

    @property
    def properties(self) -> dict[str, Any]:
        """Its JSON properties, decoded anew each time."""
        found: dict[str, Any] = msgspec.json.decode(self.encoded)
        return found

    def to_json(self, paths: list[Path] | None = None) -> dict[str, Any]:
        """The JSON EntityResult of the entity, without a cursor.

        Args:
            paths: the properties that it has; None for all.
        """
        properties = self.encoded if paths is None else merged({}, self.properties, paths)
        return {
            "entity": {"key": self.encoded_key, "properties": properties},
            "version": str(self.version),
            "createTime": self.created,
            "updateTime": self.updated,
        }


def encoded(data: dict[str, Any]) -> msgspec.Raw:
    """JSON as a row keeps it."""
    return msgspec.Raw(msgspec.json.encode(data))


class StorageEntry(NamedTuple):
    """One place in an order: its sort key, and the entity's `Key.name`."""

    position: Any
    name: str


class Span(NamedTuple):
    """A part of a sorted list of entries."""

    entries: list[StorageEntry]
    start: int
    stop: int


class StorageChange(NamedTuple):
    """The change of one entity by a commit.

    Attributes:
        version: the version of the commit.
        name: its `Key.name`.
        before: the entity before; None when there was none.
        after: the entity after; None when there is none.
    """

    version: int
    key: EntityKey
    name: str
    before: StorageRow | None
    after: StorageRow | None


class Entities(Protocol):
    """All entities at one time."""

    @property
    def version(self) -> int:
        """The version of the last commit before that time."""
        ...

    def get(self, name: str) -> StorageRow | None:
        """The entity whose key has this name, if it exists."""
        ...

    def state_of(self, index: Index) -> object:
        """A value that is equal at two times when an index has the same entities."""
        ...

    def span(self, index: Index, ancestor: KeyPath | None) -> Span:
        """The entries of an index in the order of keys, all or those at and under an ancestor."""
        ...


def under(entries: list[StorageEntry], ancestor: KeyPath | None) -> Span:
    """The entries at or under an ancestor, out of entries in the order of keys."""
    if ancestor is None:
        return Span(entries, 0, len(entries))
    start = bisect_left(entries, (ancestor,))
    return Span(entries, start, bisect_left(entries, ((*ancestor, _AFTER_ALL),), start))


class Storage:
    """All entities of the cloud, now.

    Args:
        tables: where they live.

    Attributes:
        version: the version of the last commit.
    """

    def __init__(self, tables: Tables) -> None:
        self._rows = tables.table("datastore.entities", StorageRow)
        self._meta = tables.table("datastore.meta", int)
        self._reserved = tables.table("datastore.reserved", bool)
        self.version: int = self._meta.get("version", 1)
        self._indexes: defaultdict[Index, list[StorageEntry]] = defaultdict(list)
        self._changed: defaultdict[Index, int] = defaultdict(lambda: self.version)
        for name, row in self._rows.items():
            data = row.key
            key = parse_key(data, data["partitionId"]["projectId"])
            self._indexes[key.home].append(StorageEntry(key.path, name))
        for entries in self._indexes.values():
            entries.sort()

    def get(self, name: str) -> StorageRow | None:
        """The entity whose key has this name, if it exists."""
        return self._rows.get(name)

    def reserve(self, name: str) -> None:
        """Reserves the name of a key, so that it is not allocated."""
        self._reserved[name] = True

    def is_free(self, name: str) -> bool:
        """Whether a key of this name can be allocated."""
        return name not in self._rows and name not in self._reserved

    def next_version(self, now: UnixSeconds) -> int:
        """The version of the next commit: as Google's, about microseconds since 1970."""
        return max(self.version + 1, int(now * 1e6))

    def apply(
        self, version: int, writes: Mapping[str, tuple[EntityKey, StorageRow | None]]
    ) -> list[StorageChange]:
        """Applies the writes of a commit; None removes an entity."""
        self.version = self._meta["version"] = version
        changes = []
        for name, (key, row) in writes.items():
            before = self._rows.get(name)
            changes.append(StorageChange(version, key, name, before, row))
            entries = self._indexes[key.home]
            if row is None:
                del self._rows[name]
                del entries[bisect_left(entries, StorageEntry(key.path, name))]
            else:
                if before is None:
                    insort(entries, StorageEntry(key.path, name))
                self._rows[name] = row
            self._changed[key.home] = version
        return changes

    def state_of(self, index: Index) -> int:
        """The version of the last change within an index."""
        return self._changed[index] if index.kind else self.version

    def span(self, index: Index, ancestor: KeyPath | None) -> Span:
        """The entries of an index in the order of keys, all or those at and under an ancestor."""
        if index.kind:
            entries = self._indexes[index]
        else:
            entries = sorted(entry for kind in self._kinds(index) for entry in self._indexes[kind])
        return under(entries, ancestor)

    def _kinds(self, index: Index) -> Iterable[Index]:
        return [other for other in self._indexes if other._replace(kind="") == index]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many entities there are of each kind, by `project` or `project/namespace`."""
        counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (project, namespace, kind), entries in sorted(self._indexes.items()):
            if entries:
                counts["/".join(filter(None, (project, namespace)))][kind] = len(entries)
        return counts
