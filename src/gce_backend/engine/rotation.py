"""Takes turns: each subject once before any twice, at a pace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from gce_backend.model.keys import Key

K = TypeVar("K", bound=Key)

BURST_SECONDS = 90.0
"""After a pause, the subjects of this many seconds may be taken at once."""


class Turns:
    """Takes subjects in turn, no faster than a pace."""

    def __init__(self) -> None:
        self._credit = 0.0
        self._at: float | None = None
        self._last: dict[Key, float] = {}
        self._before: dict[Key, float] = {}

    def take(self, subjects: Sequence[K], *, pace: float, now: float) -> list[K]:
        """The subjects whose turn it is.

        Args:
            subjects: all that there are.
            pace: subjects per second.
            now: monotonic seconds.
        """
        elapsed = now - self._at if self._at is not None else 0.0
        self._at = now
        # Never below two: cutting off a remainder would slow the pace.
        self._credit = min(self._credit + elapsed * pace, max(2.0, pace * BURST_SECONDS))
        count = min(int(self._credit), len(subjects))
        if count == 0:
            return []
        self._credit -= count
        never = float("-inf")
        chosen = sorted(subjects, key=lambda key: self._last.get(key, never))[:count]
        known = set(subjects)
        self._last = {key: at for key, at in self._last.items() if key in known}
        self._before = {key: self._last.get(key, never) for key in chosen}
        self._last.update(dict.fromkeys(chosen, now))
        return chosen

    def give_back(self, subjects: Sequence[K]) -> None:
        """Gives subjects that were just taken, and not processed, their earlier place again."""
        for subject in subjects:
            self._last[subject] = self._before[subject]
