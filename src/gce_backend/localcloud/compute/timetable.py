"""Work that falls due: one heap, and a signal when its front moves forward."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

from gce_backend.base.dates import UnixSeconds

Step = Callable[[str, float], None]
"""Does a step, given the key of its subject and the time at which it was due."""


class Timetable:
    """The planned steps. They are not durable: rows say when they are due, and are scheduled again.

    Attributes:
        sooner: set when a step was scheduled before all others.
    """

    def __init__(self) -> None:
        self.sooner = asyncio.Event()
        self._heap: list[tuple[float, int, Step, str]] = []
        self._order = count()

    def put(self, due: float, step: Step, key: str) -> None:
        """Schedules `step(key, due)` at `due`, in Unix seconds; equal times keep their order."""
        if not self._heap or due < self._heap[0][0]:
            self.sooner.set()
        heapq.heappush(self._heap, (due, next(self._order), step, key))

    def next_due(self) -> float | None:
        """When the next step falls due; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def advance(self, now: UnixSeconds) -> None:
        """Does every step that is due, also those that steps schedule."""
        while self._heap and self._heap[0][0] <= now:
            due, _, step, key = heapq.heappop(self._heap)
            step(key, due)
