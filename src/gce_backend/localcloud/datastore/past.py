"""The entities as they were at an earlier commit, and what the commits since have changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gce_backend.base.clock import Clock
from gce_backend.localcloud.datastore.keys import Index, KeyPath
from gce_backend.localcloud.datastore.storage import (
    Entities,
    Span,
    StorageChange,
    StorageEntry,
    StorageRow,
    under,
)
from gce_backend.localcloud.statuses import invalid

READ_SECONDS = 3600.0
"""How far back reads may look."""
KEPT_SECONDS = READ_SECONDS + 300.0
"""For how long changes are kept: a transaction that reads the past goes on for a while."""
MAX_AHEAD_MICROSECONDS = 1_000_000
"""What a clock may be ahead of this one."""


class Past:
    """The present entities, with the changes since a version undone.

    Args:
        version: the version of the last commit that counts.
        undone: the first change of each entity after that version, by `Key.name`.
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
        """A value that is equal when the index had, and has, the same entities."""
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
            return span  # entries of newer entities are harmless: `get` does not find them
        known = [entry for entry in span.entries if entry.name not in self._undone]
        return under(sorted(known + again), ancestor)


class _Commit(NamedTuple):
    """One commit.

    Attributes:
        instant: when it was, in microseconds since 1970.
        monotonic: when it was, by a clock that nobody sets.
        changes: what it did.
    """

    version: int
    instant: int
    monotonic: float
    changes: Sequence[StorageChange]


class ChangeLog:
    """What the commits of the last hour have changed; it begins with the process.

    Args:
        clock: when changes are forgotten.
        version: that of the last commit before.
        instant: now, in microseconds since 1970.
    """

    def __init__(self, clock: Clock, version: int, instant: int) -> None:
        self._clock = clock
        self._commits: deque[_Commit] = deque()
        self._before = _Commit(version, instant, 0.0, ())  # there need be no event loop yet

    def note(self, version: int, instant: int, changes: Sequence[StorageChange]) -> None:
        """Remembers what a commit changed, and forgets what is too old."""
        now = self._clock.monotonic()
        self._commits.append(_Commit(version, instant, now, changes))
        while now - self._commits[0].monotonic > KEPT_SECONDS:
            self._before = self._commits.popleft()

    def since(self, version: int) -> Iterator[StorageChange]:
        """What was changed after a version, the latest first."""
        for commit in reversed(self._commits):
            if commit.version <= version:
                return
            yield from reversed(commit.changes)

    def version_at(self, instant: int, now: int) -> int:
        """The version of the last commit until an instant; both in microseconds since 1970.

        Raises:
            ServiceError: it lies in the future, or too far in the past.
        """
        if instant > now + MAX_AHEAD_MICROSECONDS:
            raise invalid("readTime lies in the future")
        if now - instant > READ_SECONDS * 1e6:
            raise invalid("readTime lies more than an hour in the past")
        for commit in reversed(self._commits):
            if commit.instant <= instant:
                return commit.version
        if instant < self._before.instant:
            raise invalid("readTime lies before the start of the embedded cloud")
        return self._before.version

    def view(self, version: int, now: Entities) -> Entities:
        """The entities as they were at a version."""
        undone = {change.name: change for change in self.since(version)}
        return Past(now, version, undone) if undone else now
