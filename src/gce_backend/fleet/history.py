"""History: reads its pages from the store, and keeps their number and age within bounds.

Nothing is read without a request. The first request reads all pages; later ones read only new
pages, at most every two seconds for all readers together.
"""

from __future__ import annotations

import asyncio
import sys
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import msgspec

from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.fleet.store import Store, Write
from gce_backend.model.events import Event, EventKind, Happening, HistoryPage
from gce_backend.model.keys import Key
from gce_backend.rules.history_pages import PageName, event_of

FRESH_SECONDS = 2.0
OVERLAP_SECONDS = 60.0
"""How late a page may appear after its time: a slow commit, a clock that is behind."""
TRIM_SECONDS = 3600.0
REMOVED_AT_ONCE = 500
REMOVED_IN_A_RUN = 10_000
PAGES_AT_ONCE = 500
"""Pages that are searched before the event loop runs other tasks."""
INDEX_DIGITS = 3
ID_PATTERN = r"^\d{16}-\d{3}-[0-9a-f]{8}\.\d{3}\Z"
"""An event's id: the name of its page, and its place there."""


class HistoryEntry(NamedTuple):
    """An event with its id. A greater id is a later event."""

    id: str
    event: Event


class Found(NamedTuple):
    """An answer, newest event first.

    Attributes:
        events: at most the requested number.
        next: the `before` that continues it; None when there are none left.
    """

    events: tuple[HistoryEntry, ...]
    next: str | None


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are wanted; "" and None leave out a condition.

    To follow, ask for what is `after` the newest id seen, and with `before` for the rest where
    `Found.next` says that there is one. An event of a process whose clock is behind, or of a slow
    commit, may appear up to a minute below an id already seen.

    Attributes:
        name: of the VM, the group or the template.
        kind: one of `EventKind`.
        template: the base_name of the template that it belongs to.
        zone: the zone that it happened in.
        cause: what the cause begins with, e.g. `operator`.
        who: who ordered it.
        since: how old at most, as Unix seconds.
        after: only those with a greater id.
        before: only those with a smaller id.
        limit: at most this many.
    """

    name: str = ""
    kind: str | None = None
    template: str = ""
    zone: str = ""
    cause: str = ""
    who: str = ""
    since: UnixSeconds | None = None
    after: str | None = None
    before: str | None = None
    limit: int = 100

    def may_hold(self, happening: Happening) -> bool:
        """Whether it may have been wanted of one of its subjects: quickly, before `holds`."""
        if self.kind not in {None, "", happening.kind} or self.who not in {"", happening.who}:
            return False
        if not happening.cause.startswith(self.cause):
            return False
        if happening.parent and not happening.parent.startswith(self.template):
            return False
        if happening.kind == EventKind.MACHINE:
            named = not self.name or self.name in happening.names
            return named and happening.parent.endswith(self.zone)
        return True

    def holds(self, event: Event) -> bool:
        """Whether it is wanted, given that `may_hold`."""
        return (
            self.name in {"", event.name}
            and self.template in {"", event.template}
            and self.zone in {"", event.zone}
        )


class _Page(NamedTuple):
    name: str
    events: int
    page: HistoryPage


class History:
    """Reads and trims history.

    Args:
        store: where the pages are.
        max_age: seconds for which events are kept.
        max_events: how many are kept.
    """

    def __init__(self, store: Store, clock: Clock, *, max_age: float, max_events: int) -> None:
        self._store = store
        self._clock = clock
        self._max_age = max_age
        self._max_events = max_events
        self._pages: list[_Page] = []  # by name, which is by time
        self._count = 0
        self._reading = asyncio.Lock()
        self._fresh_until = self._next_trim = float("-inf")

    async def events(self, wanted: EventFilter) -> Found:
        """The newest events that fulfil all conditions, newest first.

        Raises:
            RemoteError: Datastore could not be read.
        """
        await self._refresh()
        found: list[HistoryEntry] = []
        async for entry in self._newest_first(wanted):
            if len(found) == wanted.limit:
                return Found(tuple(found), found[-1].id if found else None)
            found.append(entry)
        return Found(tuple(found), None)

    async def oldest(self) -> UnixSeconds | None:
        """When the oldest that is kept happened; None when nothing is kept.

        Raises:
            RemoteError: Datastore could not be read.
        """
        await self._refresh()
        return self._pages[0].page.at if self._pages else None

    async def happenings(self, since: UnixSeconds) -> AsyncIterator[tuple[UnixSeconds, Happening]]:
        """Everything that happened since then, and when; newest first.

        Raises:
            RemoteError: Datastore could not be read.
        """
        await self._refresh()
        for number, (_, _, page) in enumerate(reversed(self._pages[:]), start=1):
            if page.at < since:
                return
            if number % PAGES_AT_ONCE == 0:
                await asyncio.sleep(0)
            for happening in reversed(page.happenings):
                yield page.at, happening

    async def _newest_first(self, wanted: EventFilter) -> AsyncIterator[HistoryEntry]:
        after, before = wanted.after or "", wanted.before
        end = len(self._pages) if before is None else bisect_left(self._pages, before, key=_name)
        for number, (name, _, page) in enumerate(reversed(self._pages[:end]), start=1):
            if f"{name}." < after[: len(name) + 1]:
                return
            if number % PAGES_AT_ONCE == 0:
                await asyncio.sleep(0)
            if wanted.since is None or page.at >= wanted.since:
                for entry in reversed(entries(name, page, wanted)):
                    if after < entry.id and (before is None or entry.id < before):
                        yield entry

    async def _refresh(self) -> None:
        """Reads new pages, unless it has just done so."""
        async with self._reading:
            if self._clock.monotonic() < self._fresh_until:
                return
            oldest = self._clock.now() - self._max_age
            start = oldest
            if self._pages:  # names may be ahead of the clock: it may have been set back
                newest = min(self._pages[-1].page.at, self._clock.now())
                start = max(oldest, newest - OVERLAP_SECONDS)
            after = Key(HistoryPage.KIND, PageName.first(start))
            async for found in self._store.read_kind(HistoryPage.KIND, after):
                for key, stored in found.items():
                    if isinstance(stored.entity, HistoryPage):
                        self._add(key.name, stored.entity)
                self._forget(PageName.first(oldest))
            self._fresh_until = self._clock.monotonic() + FRESH_SECONDS

    def _add(self, name: str, page: HistoryPage) -> None:
        place = bisect_left(self._pages, name, key=_name)
        known = place < len(self._pages) and self._pages[place].name == name
        if known or PageName.of(name) is None:
            return
        events = sum(len(happening.names) for happening in page.happenings)
        shared = HistoryPage(page.at, tuple(map(_shared, page.happenings)))
        self._pages.insert(place, _Page(name, events, shared))
        self._count += events

    def _forget(self, oldest: str) -> None:
        """Forgets the oldest pages beyond the bounds."""
        kept = 0
        for page in self._pages:
            if page.name >= oldest and self._count <= self._max_events:
                break
            self._count -= page.events
            kept += 1
        del self._pages[:kept]

    async def trim(self) -> int:
        """Removes the oldest pages beyond the bounds from the store; looks once an hour.

        Returns:
            How many pages it removed. If there are very many, the next call removes the rest.

        Raises:
            RemoteError: Datastore could not be reached.
        """
        if self._clock.monotonic() < self._next_trim:
            return 0
        names = await self._store.names(HistoryPage.KIND)
        doomed = self._beyond_bounds(names)
        now = doomed[:REMOVED_IN_A_RUN]
        for start in range(0, len(now), REMOVED_AT_ONCE):
            keys = [Key(HistoryPage.KIND, name) for name in now[start : start + REMOVED_AT_ONCE]]
            await self._store.write([Write(key, None, None) for key in keys])
            for key in keys:
                self._store.corrupt.pop(key, None)
        if len(now) == len(doomed):
            self._next_trim = self._clock.monotonic() + TRIM_SECONDS
        return len(now)

    def _beyond_bounds(self, names: Sequence[str]) -> list[str]:
        """Those of these names, in order, that are too old or too many; the oldest first."""
        oldest = PageName.first(self._clock.now() - self._max_age)
        kept = 0
        doomed = []
        for name in reversed(names):
            told = PageName.of(name)
            if told is None:  # not ours
                continue
            kept += told.events
            if name < oldest or kept > self._max_events:
                doomed.append(name)
        return doomed[::-1]


def entries(name: str, page: HistoryPage, wanted: EventFilter) -> list[HistoryEntry]:
    """The events of a page that are wanted, in order."""
    found = []
    start = 0
    for happening in page.happenings:
        if wanted.may_hold(happening):
            for index, subject in enumerate(happening.names, start=start):
                event = event_of(happening, subject, page.at)
                if wanted.holds(event):
                    found.append(HistoryEntry(f"{name}.{index:0{INDEX_DIGITS}d}", event))
        start += len(happening.names)
    return found


def _name(page: _Page) -> str:
    return page.name


def _shared(happening: Happening) -> Happening:
    """The same with texts that many have in common."""
    kind, parent, names, *rest = msgspec.structs.astuple(happening)
    texts = map(sys.intern, rest)
    return Happening(sys.intern(kind), sys.intern(parent), names, *texts)
