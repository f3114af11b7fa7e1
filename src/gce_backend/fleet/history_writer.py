"""Makes the pages of history that go into commits."""

from __future__ import annotations

import random
from collections.abc import Iterable

from gce_backend.base.clock import Clock
from gce_backend.model.events import Happening, HistoryPage
from gce_backend.model.keys import Key
from gce_backend.rules.history_pages import Transition, _happenings, _packed
from gce_backend.rules.narration import Get


class Chronicler:
    """Makes the pages that go into commits.

    Args:
        rng: tells apart what several processes write at once.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._last = 0

    def pages(self, steps: Iterable[Transition], was: Get, now: Get) -> dict[Key, HistoryPage]:
        """The pages that tell of these changes; none when there is nothing to tell.

        Args:
            steps: in order.
            was: gives the entities above those that change, before the first step.
            now: the same after the last one.
        """
        at = self._clock.now()
        happenings = _happenings(steps, was, now)
        return {
            Key(HistoryPage.KIND, self._name(at, packed)): HistoryPage(at, packed)
            for packed in _packed(happenings)
        }

    def _name(self, at: float, happenings: tuple[Happening, ...]) -> str:
        # Also within a moment, and when the clock is set back: what is written later comes later.
        self._last = max(int(at * 1e6), self._last + 1)
        events = sum(len(happening.names) for happening in happenings)
        return f"{self._last:016d}-{events:03d}-{self._rng.getrandbits(32):08x}"
