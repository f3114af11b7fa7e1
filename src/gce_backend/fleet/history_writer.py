"""Makes the pages of history for commits."""

from __future__ import annotations

import random
from collections.abc import Iterable

from gce_backend.base.clock import Clock
from gce_backend.model.events import Happening, HistoryPage
from gce_backend.model.keys import Key
from gce_backend.rules.history_pages import Transition, _happenings, _packed
from gce_backend.rules.narration import Get


class Chronicler:
    """Makes the pages for commits.

    Args:
        rng: makes the names of pages unique across processes.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._last = 0

    def pages(self, steps: Iterable[Transition], was: Get, now: Get) -> dict[Key, HistoryPage]:
        """The pages for these changes; none when no visible state changed.

        Args:
            steps: the changes in order.
            was: returns the entities above the changed ones, before the first step.
            now: returns them after the last step.
        """
        at = self._clock.now()
        happenings = _happenings(steps, was, now)
        return {
            Key(HistoryPage.KIND, self._name(at, packed)): HistoryPage(at, packed)
            for packed in _packed(happenings)
        }

    def _name(self, at: float, happenings: tuple[Happening, ...]) -> str:
        # Later pages sort later, also within a microsecond and when the clock is set back.
        self._last = max(int(at * 1e6), self._last + 1)
        events = sum(len(happening.names) for happening in happenings)
        return f"{self._last:016d}-{events:03d}-{self._rng.getrandbits(32):08x}"
