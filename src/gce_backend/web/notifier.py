"""Tells webhooks of events and problems. It only looks: no job waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NoReturn

import msgspec

from gce_backend.base.errors import BackendError
from gce_backend.fleet.history import EventFilter, entries
from gce_backend.fleet.store import Store, Stored, Write
from gce_backend.model.entities import ToldNotices
from gce_backend.model.events import HistoryPage
from gce_backend.model.keys import Key
from gce_backend.rules.history_pages import PageName
from gce_backend.web.survey.problems import problems
from gce_backend.web.survey.view import View
from gce_backend.web.teller import LATE_SECONDS, Teller

LOOK_SECONDS = 5.0


class Notifier:
    """Looks for events and problems, and has the webhooks told of them.

    Events are read from the store, because commands and other daemons write some of them. What each
    webhook has been told is stored, so that the next process goes on from there.

    Args:
        view: what is known.
        store: holds the history.
        tellers: one for each webhook.
    """

    def __init__(self, view: View, store: Store, tellers: Iterable[Teller]) -> None:
        self._view = view
        self._store = store
        self._tellers = {Key(ToldNotices.KIND, one.style): one for one in tellers}
        self._versions: dict[Key, int] = {}
        self._after = ""
        self._seen: set[str] = set()

    async def run(self) -> NoReturn:
        """Looks every few seconds, until it is cancelled."""
        resumed = False
        while True:
            resumed = resumed or await self._succeeds("webhook.no_events", self._resume)
            await asyncio.sleep(LOOK_SECONDS)
            if resumed:
                await self._look_at_problems()
                await self._succeeds("webhook.no_events", self._look_at_events)
                await self._succeeds("webhook.not_stored", self._keep)

    async def _succeeds(self, event: str, act: Callable[[], Awaitable[None]]) -> bool:
        """Whether it worked; if not, the log says why, and the next look does the same again."""
        try:
            await act()
        except BackendError as error:
            self._view.context.log.warning(event, error=str(error))
            return False
        return True

    async def _resume(self) -> None:
        found = await self._store.read(self._tellers)
        now = self._view.context.clock.now()
        self._versions = {key: stored.version for key, stored in found.items()}
        self._after = min(
            teller.resume(_told(found.get(key)), now) for key, teller in self._tellers.items()
        )

    async def _look_at_problems(self) -> None:
        view = self._view
        survey = await view.census.survey()
        found = await problems(view.context, survey, view.scheduler.status(), view.queue())
        now = view.context.clock.now()
        for teller in self._tellers.values():
            teller.tell_problems(map(msgspec.to_builtins, found), now)

    async def _look_at_events(self) -> None:
        read: set[str] = set()
        async for found in self._store.read_kind(
            HistoryPage.KIND, Key(HistoryPage.KIND, self._after)
        ):
            for key, stored in found.items():
                read.add(key.name)
                if key.name not in self._seen and isinstance(stored.entity, HistoryPage):
                    events = entries(key.name, stored.entity, EventFilter())
                    for teller in self._tellers.values():
                        teller.tell_page(key.name, events)
            self._seen |= read
        self._seen = read
        late = PageName.first(self._view.context.clock.now() - LATE_SECONDS)
        self._after = max(self._after, late)

    async def _keep(self) -> None:
        """Stores what the webhooks have been told."""
        now = self._view.context.clock.now()
        for key, teller in self._tellers.items():
            if teller.changed:
                write = Write(key, teller.told(now), self._versions.get(key))
                try:
                    (self._versions[key],) = await self._store.write([write])
                except BackendError:
                    teller.changed = True
                    found = await self._store.read([key])
                    self._versions.pop(key, None)
                    self._versions |= {key: stored.version for key, stored in found.items()}
                    raise


def _told(stored: Stored | None) -> ToldNotices | None:
    entity = None if stored is None else stored.entity
    return entity if isinstance(entity, ToldNotices) else None
