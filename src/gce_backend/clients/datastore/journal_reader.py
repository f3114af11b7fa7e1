"""Reads the journal on, from where it was read before."""

from __future__ import annotations

from typing import NamedTuple

from gce_backend.clients.datastore.client import Datastore
from gce_backend.clients.datastore.journal import KIND, NO_TERM, entry_of, place, position_of
from gce_backend.clients.datastore.values import Path

FEW, MANY = 1, 100
"""Entries that are asked for at once: while nothing is new, and as soon as something is."""


class Place(NamedTuple):
    """A place in the journal.

    Attributes:
        position: the number of the last entry before it; 0 for none.
        epoch: the term of that entry; 0 for none.
    """

    position: int = 0
    epoch: int = 0


class News(NamedTuple):
    """What was written since the last look.

    Attributes:
        paths: the rows, each once.
        place: where to look next time.
        complete: False when entries in between are no longer kept: everything is to be read again.
    """

    paths: tuple[Path, ...]
    place: Place
    complete: bool


class JournalReader:
    """Reads the journal of a namespace."""

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore

    async def end(self) -> Place:
        """The end of the journal.

        Raises:
            RemoteError: Datastore could not be read.
        """
        entries = await self._datastore.query(KIND, keys_only=True)
        if not entries:
            return Place()
        last = entries[-1].path
        row = (await self._datastore.lookup([last])).get(last)
        return Place(position_of(last), entry_of(row).epoch if row is not None else 0)

    async def news(self, since: Place) -> News:
        """What was written since a place.

        Raises:
            RemoteError: Datastore could not be read.
        """
        found: dict[Path, None] = {}
        position, epoch = since
        asked = FEW
        while True:
            # That the same entry is still there proves that none after it was dropped.
            wanted = [place(number) for number in range(position, position + 1 + asked)]
            rows = await self._datastore.lookup(wanted if position else wanted[1:])
            last = rows.get(wanted[0])
            if position and (last is None or entry_of(last).epoch != epoch):
                return News((), since, complete=False)
            read = 0
            for path in wanted[1:]:
                if path not in rows:
                    break
                former, (epoch, paths) = epoch, entry_of(rows[path])
                if epoch == NO_TERM or epoch - former not in {0, 1}:
                    # It cannot be understood, or who led in between kept no journal.
                    return News((), since, complete=False)
                found.update(dict.fromkeys(paths))
                read += 1
            position += read
            if not read and not position:
                complete = not await self._datastore.query(KIND, keys_only=True)
                return News((), since, complete=complete)
            if read < asked:
                return News(tuple(found), Place(position, epoch), complete=True)
            asked = MANY
