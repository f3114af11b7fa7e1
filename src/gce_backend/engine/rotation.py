"""Takes turns: each subject once before any twice, at a pace, without a look at all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from gce_backend.model.keys import Key

K = TypeVar("K", bound=Key)

BURST_SECONDS = 90.0
"""After a pause, the subjects of this many seconds may be taken at once."""


class Turns(Generic[K]):
    """Takes subjects in turn, no faster than a pace. Whoever is new waits for the next round."""

    def __init__(self) -> None:
        self._credit = 0.0
        self._at: float | None = None
        self._round: deque[K] = deque()

    def take(
        self,
        number: int,
        subjects: Callable[[], Iterable[K]],
        is_subject: Callable[[K], bool],
        *,
        pace: float,
        now: float,
    ) -> list[K]:
        """The subjects whose turn it is.

        Args:
            number: how many there are.
            subjects: lists them all, for a new round.
            is_subject: whether one of this round is still among them.
            pace: subjects per second.
            now: monotonic seconds.
        """
        elapsed = now - self._at if self._at is not None else 0.0
        self._at = now
        # Never below two: cutting off a remainder would slow the pace.
        self._credit = min(self._credit + elapsed * pace, max(2.0, pace * BURST_SECONDS))
        count = min(int(self._credit), number)
        chosen: dict[K, None] = {}
        begun = False
        while len(chosen) < count and (self._round or not begun):
            if not self._round:
                self._round, begun = deque(subjects()), True
                continue
            key = self._round.popleft()
            if is_subject(key):
                chosen[key] = None
        self._credit -= len(chosen)
        return list(chosen)

    def give_back(self, subjects: Sequence[K]) -> None:
        """Gives subjects that were just taken, and not processed, the first places of the next."""
        self._round.extendleft(reversed(subjects))
