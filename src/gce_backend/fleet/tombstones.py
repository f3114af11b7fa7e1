"""The deleted machines, in the order in which they were deleted.

Each job that has something to do with them reads on from where it was: it looks at none twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import count, takewhile

from gce_backend.model.entities import Instance
from gce_backend.model.keys import MachineKey


class Tombstones:
    """Numbers each tombstone; the picture tells it of every change of a machine."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[MachineKey, int] = OrderedDict()
        self._next = count(1)

    def note(self, key: MachineKey, after: Instance | None) -> bool:
        """Notes a machine's change; returns whether it is a tombstone now.

        Args:
            after: its entity now; None is an absent one.
        """
        if after is None or not after.is_tombstone:
            self._numbers.pop(key, None)
            return False
        if key not in self._numbers:
            self._numbers[key] = next(self._next)
        return True

    def after(self, number: int) -> Iterator[tuple[int, MachineKey]]:
        """Those with a higher number than this, the newest first."""
        newest = ((known, key) for key, known in reversed(self._numbers.items()))
        return takewhile(lambda one: one[0] > number, newest)

    def has(self, number: int, key: MachineKey) -> bool:
        """Whether a tombstone is still there; one of a later deletion has another number."""
        return self._numbers.get(key) == number
