"""The numbers of machines in the last hours, in memory, for the small charts."""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from gce_backend.base.clock import Clock
from gce_backend.rules.states import State
from gce_backend.web.survey.census import Census

EVERY_SECONDS = 60.0
KEPT = 360
"""Samples that are kept: six hours."""

Row = tuple[str, str]
"""Template and zone."""


class Level(NamedTuple):
    """The numbers of machines at one time: leased, available, and all others."""

    leased: int
    available: int
    other: int


class Samples:
    """The last samples, a few bytes for each template and zone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._times: deque[float] = deque(maxlen=KEPT)
        self._taken = 0
        self._rings: dict[Row, array[int]] = {}

    @property
    def times(self) -> Sequence[float]:
        """When the samples were taken, Unix seconds, oldest first."""
        return tuple(self._times)

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
        slot = self._taken % KEPT
        for ring in self._rings.values():
            ring[3 * slot : 3 * slot + 3] = array("I", (0, 0, 0))
        for row, states in counts.items():
            if total := sum(states.values()):
                leased, available = states.get(State.LEASED, 0), states.get(State.CATALOGED, 0)
                ring = self._rings.setdefault(row, array("I", [0]) * (3 * KEPT))
                ring[3 * slot : 3 * slot + 3] = array(
                    "I", (leased, available, total - leased - available)
                )
        for row in [row for row, ring in self._rings.items() if not any(ring)]:
            del self._rings[row]
        self._times.append(self._clock.now())
        self._taken += 1

    def of(self, row: Row) -> list[Level]:
        """A template's machines in a zone, a level for each of `times`."""
        ring = self._rings.get(row)
        if ring is None:
            return [Level(0, 0, 0)] * len(self._times)
        first = self._taken - len(self._times)
        slots = (3 * (sample % KEPT) for sample in range(first, self._taken))
        return [Level(*ring[slot : slot + 3]) for slot in slots]

    def all(self) -> list[Level]:
        """All machines, a level for each of `times`."""
        none = [Level(0, 0, 0)] * len(self._times)
        columns = [none, *(self.of(row) for row in self._rings)]
        return [
            Level(*map(sum, zip(*levels, strict=True))) for levels in zip(*columns, strict=True)
        ]
