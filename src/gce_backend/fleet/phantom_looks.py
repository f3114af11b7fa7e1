"""When the catalog entries of deleted machines are looked for. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection
from typing import NamedTuple

from gce_backend.model.keys import MachineKey


class PhantomLook(NamedTuple):
    """A look that is to come.

    Attributes:
        at: not before then, monotonic seconds.
        number: of the tombstone in the picture.
        looks: how many were before it.
        key: the deleted machine.
    """

    at: float
    number: int
    looks: int
    key: MachineKey


class PhantomLooks:
    """The looks that are to come, one for each tombstone.

    Attributes:
        read: the number of the last tombstone that was taken note of.
    """

    def __init__(self) -> None:
        self.read = 0
        self._later: list[PhantomLook] = []
        self._due: dict[MachineKey, PhantomLook] = {}

    def plan(self, look: PhantomLook) -> None:
        """Plans a look, in place of one that is due."""
        self._due.pop(look.key, None)
        heapq.heappush(self._later, look)

    def forget(self, key: MachineKey) -> None:
        """Forgets a look that is due."""
        self._due.pop(key, None)

    def due(
        self, now: float, is_there: Callable[[int, MachineKey], bool]
    ) -> Collection[MachineKey]:
        """The machines whose looks are due, in order; also some that are there no longer.

        Args:
            now: monotonic seconds.
            is_there: whether a tombstone with this number is still there.
        """
        while self._later and self._later[0].at <= now:
            look = heapq.heappop(self._later)
            if is_there(look.number, look.key):
                self._due[look.key] = look
        return self._due.keys()

    @property
    def are_due(self) -> bool:
        """Whether any look was due, and has not been done."""
        return bool(self._due)

    def of(self, key: MachineKey) -> PhantomLook | None:
        """A machine's look that is due; None when none is."""
        return self._due.get(key)
