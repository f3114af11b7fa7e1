"""What the machines and the queue were like in the last hours, for charts.

Each sample is also stored, in place of the one of six hours before, so that a process that takes
over shows the same charts.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import structlog

from gce_backend.base.clock import Clock
from gce_backend.base.errors import RemoteError
from gce_backend.base.rings import Rings
from gce_backend.clients.datastore.client import Datastore, Path, Row, Transaction, Unindexed
from gce_backend.machine_provider.entities import MachineState
from gce_backend.machine_provider.records import Records
from gce_backend.machine_provider.wire import Dimensions

EVERY_SECONDS = 60.0
KEPT = 360
"""Samples that are kept: six hours."""
MAX_ROWS = 200
"""Kinds, and groups, that a sample has at most: those with the most machines."""

SAMPLE_KIND = "TrendSample"

Kind = Dimensions
Numbers = tuple[int, int, int]

log = structlog.stdlib.get_logger()


class Trend(NamedTuple):
    """A row of the samples: of all, of one kind or of one group.

    Attributes:
        kind: the kind of machine; None for all kinds.
        group: the group of lessees; "" for all groups.
    """

    kind: Kind | None = None
    group: str = ""


ALL = Trend()


class StoredRow(msgspec.Struct, frozen=True, array_like=True):
    """The numbers of a trend in one sample."""

    kind: Kind | None
    group: str
    numbers: Numbers


class Sample(msgspec.Struct, frozen=True):
    """What the machines and the queue were like at a time.

    Attributes:
        at: the time, Unix seconds.
        rows: the machines.
        waited: the longest wait since the sample before, in seconds.
    """

    at: float
    rows: tuple[StoredRow, ...]
    waited: int

    @property
    def path(self) -> Path:
        """Its key: there are as many as are kept, and each replaces the oldest."""
        return ((SAMPLE_KIND, str(int(self.at // EVERY_SECONDS) % KEPT)),)


class Trends:
    """Samples of the last hours.

    Each sample of a trend has three numbers of machines: leased, free, and others.

    Args:
        clock: tells when a sample is due.
        datastore: keeps the samples.

    Attributes:
        machines: the samples of machines.
        waits: the samples of the longest wait for machines, in seconds, of the requests that waited
            since the sample before.
    """

    def __init__(self, clock: Clock, datastore: Datastore) -> None:
        self.machines: Rings[Trend] = Rings(KEPT, 3)
        self.waits: Rings[Trend] = Rings(KEPT, 1)
        self._clock = clock
        self._datastore = datastore
        self._taken = float("-inf")
        self._waited = 0.0

    def waited(self, seconds: float) -> None:
        """Notes how long a request has waited for its machines."""
        self._waited = max(self._waited, seconds)

    def due_in(self) -> float:
        """Seconds until the next sample is due."""
        return max(self._taken + EVERY_SECONDS - self._clock.monotonic(), 0.0)

    async def load(self) -> None:
        """Reads the samples that another process has stored.

        Raises:
            RemoteError: Datastore cannot be read.
        """
        now = self._clock.now()
        rows = await self._datastore.query(SAMPLE_KIND)
        found = [sample for row in rows if (sample := _sample_in(row)) is not None]
        for sample in sorted(found, key=lambda sample: sample.at):
            if now - KEPT * EVERY_SECONDS < sample.at <= now:
                self._enter(sample)

    async def keep(self, records: Records) -> None:
        """Takes a sample if one is due, and stores it; one that cannot be stored is in memory."""
        sample = self.sample(records)
        if sample is None:
            return
        whole = Unindexed(msgspec.json.encode(sample).decode())

        async def work(transaction: Transaction) -> None:
            transaction.upsert(sample.path, {"sample": whole})

        try:
            await self._datastore.transaction(work)
        except RemoteError as error:
            log.warning("machine_provider.sample_not_stored", error=str(error))

    def sample(self, records: Records) -> Sample | None:
        """Takes a sample if one is due."""
        if self.due_in() > 0:
            return None
        self._taken, now = self._clock.monotonic(), self._clock.now()
        kinds = {Trend(kind): _numbers(records, kind) for kind in records.kinds}
        groups: dict[Trend, Numbers] = {}
        for (group, _), count in records.held.machines.items():
            before, _, _ = groups.get(Trend(group=group), (0, 0, 0))
            groups[Trend(group=group)] = (before + count, 0, 0)
        leased, free, others = (sum(c) for c in zip((0, 0, 0), *kinds.values(), strict=True))
        rows = {ALL: (leased, free, others), **_largest(kinds), **_largest(groups)}
        oldest = min((lease.created for lease in records.untriaged.values()), default=now)
        waited = round(max(now - oldest, self._waited, 0.0))
        self._waited = 0.0
        stored = tuple(StoredRow(trend.kind, trend.group, row) for trend, row in rows.items())
        sample = Sample(now, stored, waited)
        self._enter(sample)
        return sample

    def _enter(self, sample: Sample) -> None:
        numbers = {Trend(row.kind, row.group): row.numbers for row in sample.rows}
        self.machines.enter(sample.at, numbers)
        self.waits.enter(sample.at, {ALL: [sample.waited]})


def _sample_in(row: Row) -> Sample | None:
    """The sample in a row; None when it is of another release, or not valid."""
    text = row.properties.get("sample")
    value = text.value if isinstance(text, Unindexed) else text
    try:
        return msgspec.json.decode(str(value), type=Sample)
    except (ValueError, RecursionError):
        return None


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
