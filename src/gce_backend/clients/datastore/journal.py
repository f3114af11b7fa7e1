"""The journal: which rows each commit of a term wrote, so that a standby process reads only those.

A commit of the leader inserts one entry in the same transaction, and the entries are numbered
without gaps. An entry exists if and only if its commit took effect, and the order of entries is
that of commits. The last thousands are kept. What is written outside of a term has no entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from gce_backend.clients.datastore.calls import Calls, Encoded
from gce_backend.clients.datastore.values import Delete, Insert, Path, Row, Unindexed

KIND = "CommitJournal"
KEPT = 2000
"""Entries that are kept."""
MUTATIONS = 2
"""Mutations that the journal adds to a commit: the new entry, and the end of an old one."""

NO_TERM = -1
_PATHS = msgspec.json.Decoder(tuple[tuple[tuple[str, str], ...], ...])


class Entry(NamedTuple):
    """What one commit wrote.

    Attributes:
        epoch: the term in which it was written.
        paths: the rows that it made, changed or removed; none in the entry that begins a term.
    """

    epoch: int
    paths: tuple[Path, ...]


def place(position: int) -> Path:
    """The key of an entry; the first one is number 1."""
    return ((KIND, f"{position:016d}"),)


def position_of(path: Path) -> int:
    """The number of the entry with that key."""
    return int(path[-1][1])


def entry_of(row: Row) -> Entry:
    """The entry in a row; that of no term, when it cannot be understood."""
    stored, epoch = row.properties.get("paths"), row.properties.get("epoch")
    try:
        paths = _PATHS.decode(str(stored.value if isinstance(stored, Unindexed) else stored))
        return Entry(msgspec.convert(epoch, int), paths)
    except ValueError:
        return Entry(NO_TERM, ())


class Journal:
    """Writes the entries of one term.

    Args:
        epoch: the number of the term.
        end: the number of the last entry before it.
        kinds: the kinds of rows that are told of.
    """

    def __init__(self, epoch: int, end: int, kinds: Collection[str]) -> None:
        self._epoch = epoch
        self._next = end + 1
        self._kinds = frozenset(kinds)
        self._turn = asyncio.Lock()
        self._in_doubt = False  # whether the next entry may exist: its commit's outcome is unknown

    async def commit(
        self, calls: Calls, transaction: str, mutations: Encoded, paths: Sequence[Path]
    ) -> list[int]:
        """Commits within a transaction; gives the new versions, in order.

        Args:
            paths: the rows that the mutations are about.
        """
        told = [path for path in paths if path[-1][0] in self._kinds]
        if not told:
            return await calls.commit(mutations, transaction)
        return await self._tell(calls, transaction, mutations, told)

    async def begin(self, calls: Calls, transaction: str) -> None:
        """Commits the entry that begins the term."""
        await self._tell(calls, transaction, [], [])

    async def _tell(
        self, calls: Calls, transaction: str, mutations: Encoded, paths: Sequence[Path]
    ) -> list[int]:
        async with self._turn:
            if self._in_doubt and await calls.lookup([place(self._next)], transaction):
                self._next += 1
            told = Unindexed(msgspec.json.encode(paths).decode())
            entry = Insert(place(self._next), {"epoch": self._epoch, "paths": told})
            own = calls.encode([entry, Delete(place(max(0, self._next - KEPT)), None)])
            self._in_doubt = True
            versions = await calls.commit([*mutations, *own], transaction)
            self._in_doubt = False
            self._next += 1
            return versions[: len(mutations)]
