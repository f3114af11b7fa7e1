"""The last samples of small numbers, for many rows, in a few bytes for each."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from gce_backend.base.dates import UnixSeconds

R = TypeVar("R", bound=Hashable)


class Rings(Generic[R]):
    """A ring of samples for each row.

    Args:
        kept: how many samples are kept.
        width: how many numbers a sample of a row has.

    Attributes:
        times: when the samples were taken, Unix seconds, oldest first.
    """

    def __init__(self, kept: int, width: int) -> None:
        self.times: deque[UnixSeconds] = deque(maxlen=kept)
        self._kept = kept
        self._width = width
        self._taken = 0
        self._rings: dict[R, array[int]] = {}

    @property
    def rows(self) -> Sequence[R]:
        """The rows with a number other than 0 in any sample."""
        return tuple(self._rings)

    def enter(self, at: UnixSeconds, numbers: Mapping[R, Sequence[int]]) -> None:
        """Adds a sample, the newest one; rows of zeros alone are dropped.

        Args:
            at: when it was taken.
            numbers: `width` numbers of each row; a row that is missing has zeros.
        """
        start, end = self._place(self._taken)
        for ring in self._rings.values():
            ring[start:end] = array("I", [0] * self._width)
        for row, sample in numbers.items():
            if any(sample):
                ring = self._rings.setdefault(row, array("I", [0]) * (self._width * self._kept))
                ring[start:end] = array("I", sample)
        for row in [row for row, ring in self._rings.items() if not any(ring)]:
            del self._rings[row]
        self.times.append(at)
        self._taken += 1

    def of(self, *rows: R) -> list[tuple[int, ...]]:
        """The numbers of rows together, for each of `times`."""
        rings = [self._rings[row] for row in rows if row in self._rings]
        if not rings:
            return [(0,) * self._width] * len(self.times)
        together = [sum(numbers) for numbers in zip(*rings, strict=True)]
        places = map(self._place, range(self._taken - len(self.times), self._taken))
        return [tuple(together[start:end]) for start, end in places]

    def _place(self, sample: int) -> tuple[int, int]:
        start = self._width * (sample % self._kept)
        return start, start + self._width
