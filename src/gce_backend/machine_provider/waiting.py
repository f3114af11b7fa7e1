"""Why each waiting request waits: its place, a reason, and what would fit."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.plurals import plural
from gce_backend.machine_provider.entities import MachineState, StoredLease
from gce_backend.machine_provider.lease_documents import NearestDocument, WaitDocument
from gce_backend.machine_provider.leases import PRESENT, Leases
from gce_backend.machine_provider.offers import offered
from gce_backend.machine_provider.queue import Hindrance, matches, nearest
from gce_backend.machine_provider.records import Records
from gce_backend.machine_provider.wire import Dimensions

GOOD_SECONDS = 1.0
"""How long an answer about the queue may be older than the queue."""
MANY = 500
"""In a longer queue, a new request learns what it waits for when the others do, within a second."""


class Waits:
    """What requests wait for, worked out once for all who ask within a second.

    Args:
        records: the picture.
        leases: decides the order.
    """

    def __init__(self, records: Records, leases: Leases, clock: Clock) -> None:
        self._records = records
        self._leases = leases
        self._clock = clock
        self._found: Mapping[str, WaitDocument] = {}
        self._until = float("-inf")

    def of(self, name: str) -> WaitDocument | None:
        """What one request waits for; None when it does not wait.

        Args:
            name: the request's.
        """
        moment = self._clock.monotonic()
        is_new = name not in self._found and len(self._records.untriaged) <= MANY
        if moment >= self._until or is_new:
            self._found = waits_of(self._records, self._leases, self._clock.now())
            self._until = moment + GOOD_SECONDS
        return self._found.get(name)


def waits_of(records: Records, leases: Leases, now: UnixSeconds) -> Mapping[str, WaitDocument]:
    """What each waiting request waits for, by request name.

    Args:
        records: the picture.
        leases: decides the order.
    """
    allotment, supply = leases.allotment(now), _Supply(records, leases, now)
    requests = {lease.name: lease for lease in records.untriaged.values()}
    found: dict[str, WaitDocument] = {}
    ahead: dict[Dimensions, int] = {}
    for place, (name, hindrance) in enumerate(allotment.waiting.items(), 1):
        lease = requests[name]
        dimensions = lease.request.dimensions
        before = ahead.get(dimensions, 0)
        ahead[dimensions] = before + lease.count
        found[name] = _wait(supply, lease, hindrance, place, before)
    for name in allotment.grants:  # the next round grants its machines
        found[name] = WaitDocument(
            place=1, reason="starting", message="a machine is free: it is being leased"
        )
    return found


class _Fitting(NamedTuple):
    """The machines that fit some dimensions.

    Attributes:
        total: all in the catalog.
        new: those that are set up.
        leased: those that are leased.
        mute: those that are not leased because their agents do not report.
        cordoned: those that an administrator keeps from being leased.
    """

    total: int
    new: int
    leased: int
    mute: int
    cordoned: int


class _Supply:
    """The machines that fit what is asked for, looked for once for all who ask for the same."""

    def __init__(self, records: Records, leases: Leases, now: UnixSeconds) -> None:
        self.records = records
        self.offered = offered(records.offers.values(), now)
        self._leases = leases
        self._fitting: dict[Dimensions, _Fitting] = {}
        self._ends: dict[Dimensions, list[int]] = {}

    def fitting(self, dimensions: Dimensions) -> _Fitting:
        """The machines that fit."""
        found = self._fitting.get(dimensions)
        if found is None:
            found = _Fitting(
                total=self._leases.total(dimensions),
                new=self._count(dimensions, MachineState.NEW),
                leased=self._count(dimensions, MachineState.LEASED),
                mute=_mute(self.records, dimensions),
                cordoned=_cordoned(self.records, dimensions),
            )
            self._fitting[dimensions] = found
        return found

    def most(self, dimensions: Dimensions, total: int) -> int:
        """How many machines that fit there can be: those in the catalog, and those still made.

        Args:
            dimensions: what is asked for; one with a host name asks for a machine that is there.
            total: how many that fit are in the catalog.
        """
        if dimensions.hostname is not None:
            return total
        more = 0
        for kind, count in self.offered.items():
            if matches(dimensions, kind):
                there = self.records.kinds.get(kind, {})
                more += max(count - sum(len(there.get(state, ())) for state in PRESENT), 0)
        return total + more

    def end(self, dimensions: Dimensions, number: int) -> int | None:
        """When the lease of so many of them has ended; None when that is not known."""
        ends = self._ends.get(dimensions)
        if ends is None:
            leased = chain.from_iterable(self.records.fitting(dimensions, MachineState.LEASED))
            ends = sorted(end for machine in leased if (end := machine.ends) is not None)
            self._ends[dimensions] = ends
        return ends[number - 1] if 0 < number <= len(ends) else None

    def _count(self, dimensions: Dimensions, state: MachineState) -> int:
        return sum(map(len, self.records.fitting(dimensions, state)))


def _wait(
    supply: _Supply, lease: StoredLease, hindrance: Hindrance, place: int, before: int
) -> WaitDocument:
    """One request's wait; the requests ahead of it want `before` machines of its kind."""
    if hindrance.limit:
        message = f"{hindrance.limit}; it waits until one is given back"
        return WaitDocument(place=place, reason="limit", message=message)
    fitting = supply.fitting(lease.request.dimensions)
    if fitting.total < lease.count:
        return _lacking(supply, lease, place, fitting.total)
    if hindrance.kept:
        message = f"{plural(hindrance.kept, 'free machine')} kept for larger requests ahead of it"
        return WaitDocument(place=place, reason="reserved", message=message)
    if fitting.new:
        message = f"machines that fit are being set up: {fitting.new}"
        return WaitDocument(place=place, reason="starting", message=message)
    message = f"of {plural(fitting.total, 'machine')} that fit, {hindrance.free} can be leased"
    if fitting.cordoned:
        message += f"; {fitting.cordoned} {'is' if fitting.cordoned == 1 else 'are'} cordoned"
    if fitting.mute:
        message += f"; the agents of {fitting.mute} do not report"
        if not fitting.leased:
            return WaitDocument(place=place, reason="no_agent", message=message)
    if fitting.cordoned and not fitting.leased:
        return WaitDocument(place=place, reason="cordoned", message=message)
    needed = before + lease.count - hindrance.free
    earliest = supply.end(lease.request.dimensions, needed)
    return WaitDocument(place=place, reason="leased", message=message, earliest=earliest)


def _lacking(supply: _Supply, lease: StoredLease, place: int, total: int) -> WaitDocument:
    """The wait of a request for which the catalog has too few machines."""
    dimensions, most = lease.request.dimensions, supply.most(lease.request.dimensions, total)
    there = f"it asks for {plural(lease.count, 'machine')}, and {total} in the catalog fit"
    if most >= lease.count:
        there = there if total else "no machine in the catalog fits yet"
        message = f"{there}; up to {most} are made on demand"
        return WaitDocument(place=place, reason="starting", message=message)
    if most:
        message = there if most == total else f"{there}; {most} are made at most"
        return WaitDocument(place=place, reason="unsatisfiable", message=message)
    best = nearest(dimensions, {**supply.records.kinds, **supply.offered})
    if best is None:
        message = "there is no machine in the catalog"
        return WaitDocument(place=place, reason="unsatisfiable", message=message)
    if not best.differs:
        message = "the machines that fit are being replaced"
        return WaitDocument(place=place, reason="starting", message=message)
    has = msgspec.to_builtins(best.dimensions)
    differs = ", ".join(
        key if key == "hostname" else f"{key} ({_shown(has.get(key))})" for key in best.differs
    )
    message = f"no machine fits: the nearest differs in {differs}"
    return WaitDocument(
        place=place,
        reason="unsatisfiable",
        message=message,
        nearest=NearestDocument(dimensions=best.dimensions, differs=tuple(best.differs)),
    )


def _shown(value: Any) -> str:
    """A dimension of a machine for people."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)


def _mute(records: Records, dimensions: Dimensions) -> int:
    """How many available machines that fit are not leased because of their agents."""
    available = chain.from_iterable(records.fitting(dimensions, MachineState.AVAILABLE))
    return sum(
        machine.preempted_ts is None and not machine.cordoned and not records.agents.allows(machine)
        for machine in available
    )


def _cordoned(records: Records, dimensions: Dimensions) -> int:
    """How many available machines that fit are cordoned."""
    available = chain.from_iterable(records.fitting(dimensions, MachineState.AVAILABLE))
    return sum(machine.cordoned for machine in available)
