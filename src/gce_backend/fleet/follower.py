"""A picture of a store that another process writes, kept current by the journal of its commits.

A quiet second costs a lookup of two entries. Once this process leads, no other can commit any more:
what it then reads of the journal is all that was written, and the picture is the store's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from structlog.typing import FilteringBoundLogger

from gce_backend.base.clock import Clock
from gce_backend.base.errors import BackendError
from gce_backend.clients.datastore.client import Datastore
from gce_backend.clients.datastore.journal import Journal
from gce_backend.clients.datastore.journal_reader import JournalReader, Place
from gce_backend.clients.datastore.terms import Term
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.schema import check
from gce_backend.fleet.store import KINDS, Store
from gce_backend.model.entities import (
    CONFIG_SETTINGS_KEY,
    CONFIGURATION_KEY,
    CONTROL_KEY,
    DELETION_WINDOW_KEY,
    MACHINE_PROVIDER_KEY,
    STORE_IDENTITY_KEY,
)
from gce_backend.model.keys import Key

FOLLOW_SECONDS = 1.0
RETRY_SECONDS = 5.0
UNTOLD_SECONDS = 30.0
"""How often what commands write, which no journal tells of, is read again."""
UNTOLD = (
    *(CONTROL_KEY, CONFIGURATION_KEY, CONFIG_SETTINGS_KEY),
    *(MACHINE_PROVIDER_KEY, STORE_IDENTITY_KEY, DELETION_WINDOW_KEY),
)

_KINDS = frozenset(kind.KIND for kind in KINDS)


class Follower:
    """Follows the leader on a store, and succeeds it.

    Args:
        datastore: the namespace of the store.
        make: makes an empty picture of a store.

    Attributes:
        store: the store; within a term after `succeed`.
    """

    def __init__(
        self,
        datastore: Datastore,
        make: Callable[[Store], Fleet],
        *,
        clock: Clock,
        log: FilteringBoundLogger,
    ) -> None:
        self.store = Store(datastore, log)
        self._datastore = datastore
        self._journal = JournalReader(datastore)
        self._make = make
        self._clock = clock
        self._log = log
        self._fleet: Fleet | None = None
        self._end = Place()
        self._turn = asyncio.Lock()
        self._current_at = self._untold_at = 0.0

    @property
    def age(self) -> float | None:
        """Seconds since the picture was last known to be current; None before it is loaded."""
        return None if self._fleet is None else self._clock.monotonic() - self._current_at

    async def load(self) -> Fleet:
        """Loads the picture, however often it must try."""
        while self._fleet is None:
            try:
                await self.catch_up()
            except BackendError as error:
                self._log.warning("standby.not_current", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
        return self._fleet

    async def keep(self) -> NoReturn:
        """Keeps the picture current, until cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                await self.catch_up()
            except BackendError as error:
                self._log.warning("standby.not_current", error=str(error))

    async def succeed(self, term: Term) -> Fleet:
        """Begins a term of this process: the picture is as the term before has left the store.

        Raises:
            LeadershipLostError: the term has ended.
            SchemaError: a newer release has written the store.
            RemoteError: Datastore could not be reached; the next call goes on.
        """
        fleet = await self.catch_up(term.epoch - 1)
        journal = Journal(term.epoch, self._end.position, _KINDS)
        writing = self._datastore.within(term, journal)
        await writing.begin_journal()
        self.store.use(writing)
        return fleet

    async def catch_up(self, former: int | None = None) -> Fleet:
        """Reads what was written since the last look; everything, if that is not known.

        Args:
            former: the term that has just ended. If it left no entry, the daemon that led in it
                kept no journal.

        Raises:
            SchemaError: a newer release has written the store.
            RemoteError: Datastore could not be read; the next call goes on.
        """
        async with self._turn:
            looked = self._clock.monotonic()
            if self._fleet is None:
                return await self._load()
            news = await self._journal.news(self._end)
            if not news.complete or former not in {None, news.place.epoch}:
                return await self._load()
            untold = former is not None or looked - self._untold_at >= UNTOLD_SECONDS
            # A newer release may write kinds that this one does not know.
            keys = [Key.of(path) for path in news.paths if path[-1][0] in _KINDS]
            keys += UNTOLD if untold else ()
            if keys:
                await self._fleet.refresh(dict.fromkeys(keys))
            self._end = news.place
            self._current_at = looked
            self._untold_at = looked if untold else self._untold_at
            return self._fleet

    async def _load(self) -> Fleet:
        await check(self.store)
        begun = self._clock.monotonic()
        end = await self._journal.end()
        fleet = self._fleet or self._make(self.store)
        await fleet.load()
        self._fleet, self._end = fleet, end
        self._current_at = self._untold_at = begun
        return fleet
