"""The numbers of machines in the last hours and days, in memory, for the charts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NoReturn

from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import BackendError
from gce_backend.base.rings import Rings
from gce_backend.fleet.history import History
from gce_backend.rules.states import State
from gce_backend.web.survey.backfill import earlier_levels
from gce_backend.web.survey.census import Census
from gce_backend.web.survey.levels import Level, Row, levels_of, total

EVERY_SECONDS = 60.0
KEPT = 360
"""Samples that are kept of each template and zone: six hours."""
LONG_SECONDS = 600.0
LONG_KEPT = 1008
"""Samples that are kept of all machines together: seven days."""
AT_ONCE = 30
"""Samples that are entered before the event loop runs other tasks."""


class Samples:
    """The last samples, a few bytes for each template and zone.

    Args:
        clock: tells when a sample was taken.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recent = _rings()
        self._long: deque[tuple[UnixSeconds, Level]] = deque(maxlen=LONG_KEPT)
        self._filling = asyncio.Lock()
        self._is_filled = False

    @property
    def times(self) -> Sequence[UnixSeconds]:
        """When the recent samples were taken, oldest first."""
        return tuple(self._recent.times)

    async def keep(self, census: Census) -> NoReturn:
        """Takes a sample every minute, until cancelled."""
        while True:
            self.take((await census.survey()).counts)
            await asyncio.sleep(EVERY_SECONDS)

    def take(self, counts: Mapping[Row, Mapping[State, int]]) -> None:
        """Takes a sample; rows without a machine in any sample are dropped.

        Args:
            counts: machines now, by template and zone, and state.
        """
        now, levels = self._clock.now(), levels_of(counts)
        self._recent.enter(now, levels)
        if not self._long or now >= self._long[-1][0] + LONG_SECONDS:
            self._long.append((now, total(levels.values())))

    def of(self, row: Row) -> list[Level]:
        """A template's machines in a zone, a level for each of `times`."""
        return self._levels(row)

    def all(self, template: str = "") -> list[Level]:
        """All machines, or those of a template, a level for each of `times`."""
        return self._levels(*(row for row in self._recent.rows if template in {"", row[0]}))

    def _levels(self, *rows: Row) -> list[Level]:
        return [Level(*numbers) for numbers in self._recent.of(*rows)]

    def long(self, since: UnixSeconds) -> tuple[list[UnixSeconds], list[Level]]:
        """All machines since then, every ten minutes, and the newest sample: times and levels."""
        found = [sample for sample in self._long if sample[0] >= since]
        times, newest = self._recent.times, self.all()
        if newest and (not found or times[-1] > found[-1][0]):
            found.append((times[-1], newest[-1]))
        return [at for at, _ in found], [level for _, level in found]

    async def fill_from(self, history: History) -> None:
        """Adds what was before the first sample of this process, from the history, once.

        When the history cannot be read, the next call tries again.
        """
        async with self._filling:
            if self._is_filled or not self._recent.times:
                return
            first = self._recent.times[0]
            start = first - LONG_KEPT * LONG_SECONDS
            try:
                oldest = await history.oldest()
                if oldest is None:
                    return
                short = _back(first, EVERY_SECONDS, KEPT, oldest)
                long = _back(first, LONG_SECONDS, LONG_KEPT, oldest)
                times = sorted({*short, *long}, reverse=True)
                now = {row: self._levels(row)[0] for row in self._recent.rows}
                found = await earlier_levels(now, history.happenings(start), times)
            except BackendError:
                return
            levels = dict(zip(times, found, strict=True))
            await self._prepend([(at, levels[at]) for at in reversed(short)])
            earlier = [(at, total(levels[at].values())) for at in reversed(long)]
            self._long = deque([*earlier, *self._long], maxlen=LONG_KEPT)
            self._is_filled = True

    async def _prepend(self, earlier: Sequence[tuple[UnixSeconds, Mapping[Row, Level]]]) -> None:
        filled = _rings()
        for number, (at, levels) in enumerate(earlier, start=1):
            filled.enter(at, levels)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        taken = [(row, self._levels(row)) for row in self._recent.rows]
        for place, at in enumerate(self._recent.times):
            filled.enter(at, {row: levels[place] for row, levels in taken})
        self._recent = filled


def _rings() -> Rings[Row]:
    return Rings(KEPT, len(Level._fields))


def _back(first: UnixSeconds, every: float, most: int, oldest: UnixSeconds) -> list[UnixSeconds]:
    """Times before the first one, newest first, not before the oldest."""
    times = (first - every * step for step in range(1, most))
    return [at for at in times if at >= oldest]
