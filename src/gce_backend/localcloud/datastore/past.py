"""The entities as they were at an earlier commit."""

from __future__ import annotations

from collections.abc import Mapping

from gce_backend.localcloud.datastore.keys import Index, KeyPath
from gce_backend.localcloud.datastore.storage import (
    Entities,
    Span,
    StorageChange,
    StorageEntry,
    StorageRow,
    under,
)


class Past:
    """What is now, with the changes since a version undone.

    Args:
        now: the entities as they are.
        version: that of the last commit that counts.
        undone: by `Key.name`, the first change after it.
    """

    def __init__(self, now: Entities, version: int, undone: Mapping[str, StorageChange]) -> None:
        self.version = version
        self._now = now
        self._undone = undone

    def get(self, name: str) -> StorageRow | None:
        """The entity whose key has this name, if it existed."""
        change = self._undone.get(name)
        return change.before if change else self._now.get(name)

    def state_of(self, index: Index) -> object:
        """Equal when what was within the index, and what is now, are the same."""
        return self.version, self._now.state_of(index)

    def span(self, index: Index, ancestor: KeyPath | None) -> Span:
        """The entries of an index in the order of keys, all or those at and under an ancestor."""
        span = self._now.span(index, ancestor)
        again = [
            StorageEntry(change.key.path, name)
            for name, change in self._undone.items()
            if change.before is not None and index.holds(change.key)
        ]
        if not again:
            return span  # entries of what was made since are harmless: `get` does not find it
        known = [entry for entry in span.entries if entry.name not in self._undone]
        return under(sorted(known + again), ancestor)
