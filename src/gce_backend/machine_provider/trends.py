"""What the machines and the queue were like in the last hours, in memory, for charts."""

from __future__ import annotations

from typing import NamedTuple

from gce_backend.base.clock import Clock
from gce_backend.base.rings import Rings
from gce_backend.machine_provider.entities import MachineState
from gce_backend.machine_provider.records import Records
from gce_backend.machine_provider.wire import Dimensions

EVERY_SECONDS = 60.0
KEPT = 360
"""Samples that are kept: six hours."""
MAX_ROWS = 200
"""Kinds, and groups, that a sample has at most: those with the most machines."""

Kind = Dimensions
Numbers = tuple[int, int, int]


class Trend(NamedTuple):
    """A row of the samples: of all, of one kind or of one group.

    Attributes:
        kind: the kind of machine; None for all kinds.
        group: the group of lessees; "" for all groups.
    """

    kind: Kind | None = None
    group: str = ""


ALL = Trend()


class Trends:
    """Samples of the last hours.

    Each sample of a trend has three numbers of machines: leased, free, and others.

    Args:
        clock: tells when a sample is due.

    Attributes:
        machines: the samples of machines.
        waits: the samples of the longest wait for machines, in seconds, of the requests that waited
            since the sample before.
    """

    def __init__(self, clock: Clock) -> None:
        self.machines: Rings[Trend] = Rings(KEPT, 3)
        self.waits: Rings[Trend] = Rings(KEPT, 1)
        self._clock = clock
        self._taken = float("-inf")
        self._waited = 0.0

    def waited(self, seconds: float) -> None:
        """Notes how long a request has waited for its machines."""
        self._waited = max(self._waited, seconds)

    def due_in(self) -> float:
        """Seconds until the next sample is due."""
        return max(self._taken + EVERY_SECONDS - self._clock.monotonic(), 0.0)

    def sample(self, records: Records) -> None:
        """Takes a sample if one is due."""
        if self.due_in() > 0:
            return
        self._taken, now = self._clock.monotonic(), self._clock.now()
        kinds = {Trend(kind): _numbers(records, kind) for kind in records.kinds}
        groups: dict[Trend, Numbers] = {}
        for (group, _), count in records.held.machines.items():
            before, _, _ = groups.get(Trend(group=group), (0, 0, 0))
            groups[Trend(group=group)] = (before + count, 0, 0)
        sums = [sum(column) for column in zip((0, 0, 0), *kinds.values(), strict=True)]
        self.machines.enter(now, {ALL: sums, **_largest(kinds), **_largest(groups)})
        oldest = min((lease.created for lease in records.untriaged.values()), default=now)
        self.waits.enter(now, {ALL: [round(max(now - oldest, self._waited, 0.0))]})
        self._waited = 0.0


def _numbers(records: Records, kind: Kind) -> Numbers:
    sizes = {state: len(machines) for state, machines in records.kinds[kind].items()}
    leased, free = sizes.get(MachineState.LEASED, 0), len(records.free.get(kind, ()))
    gone = sizes.get(MachineState.DELETED, 0)
    return leased, free, sum(sizes.values()) - leased - free - gone


def _largest(rows: dict[Trend, Numbers]) -> dict[Trend, Numbers]:
    """The rows with the most machines, as many as are kept."""
    if len(rows) <= MAX_ROWS:
        return rows
    return dict(sorted(rows.items(), key=lambda row: -sum(row[1]))[:MAX_ROWS])
