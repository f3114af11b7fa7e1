"""Why each waiting request waits: its place, a reason, and what would fit."""

from __future__ import annotations

from collections.abc import Mapping

from gce_backend.base.dates import UnixSeconds
from gce_backend.machine_provider.entities import MachineState, StoredLease
from gce_backend.machine_provider.lease_documents import NearestDocument, WaitDocument
from gce_backend.machine_provider.leases import Leases
from gce_backend.machine_provider.queue import Hindrance, kind_of, matches, nearest
from gce_backend.machine_provider.records import Records
from gce_backend.machine_provider.wire import Dimensions


def waits_of(records: Records, leases: Leases, now: UnixSeconds) -> Mapping[str, WaitDocument]:
    """What each waiting request waits for, by request name.

    Args:
        records: the picture.
        leases: decides the order.
        now: the present time in Unix seconds.
    """
    allotment = leases.allotment(now)
    requests = {lease.name: lease for lease in records.untriaged.values()}
    found: dict[str, WaitDocument] = {}
    ahead: dict[Dimensions, int] = {}
    for place, (name, hindrance) in enumerate(allotment.waiting.items(), 1):
        lease = requests[name]
        dimensions = lease.request.dimensions
        before = ahead.get(dimensions, 0)
        ahead[dimensions] = before + lease.count
        found[name] = _wait(records, leases, lease, hindrance, place, before)
    for name in allotment.grants:  # the next round grants its machines
        found[name] = WaitDocument(
            place=1, reason="starting", message="a machine is free: it is being leased"
        )
    return found


def _wait(
    records: Records,
    leases: Leases,
    lease: StoredLease,
    hindrance: Hindrance,
    place: int,
    before: int,
) -> WaitDocument:
    """One request's wait; the requests ahead of it want `before` machines of its kind."""
    if hindrance.limit:
        message = f"{hindrance.limit}; it waits until one is given back"
        return WaitDocument(place=place, reason="limit", message=message)
    dimensions = lease.request.dimensions
    total = leases.total(dimensions)
    if total < lease.count:
        return _unsatisfiable(records, lease, place, total)
    if hindrance.kept:
        message = f"{hindrance.kept} free machines are kept for larger requests ahead of it"
        return WaitDocument(place=place, reason="reserved", message=message)
    new = _fitting(records, MachineState.NEW, dimensions)
    if new:
        message = f"{len(new)} machines that fit are being set up"
        return WaitDocument(place=place, reason="starting", message=message)
    ends = sorted(end for end in _fitting(records, MachineState.LEASED, dimensions) if end)
    needed = before + lease.count - hindrance.free
    earliest = ends[needed - 1] if 0 < needed <= len(ends) else None
    message = f"all but {hindrance.free} of the {total} machines that fit are leased"
    return WaitDocument(place=place, reason="leased", message=message, earliest=earliest)


def _unsatisfiable(records: Records, lease: StoredLease, place: int, total: int) -> WaitDocument:
    dimensions = lease.request.dimensions
    if total:
        message = f"it asks for {lease.count} machines, and {total} in the catalog fit"
        return WaitDocument(place=place, reason="unsatisfiable", message=message)
    kinds = {
        kind_of(machine.dimensions): None
        for machines in records.machines.values()
        for machine in machines.values()
    }
    best = nearest(dimensions, kinds)
    if best is None:
        message = "there is no machine in the catalog"
        return WaitDocument(place=place, reason="unsatisfiable", message=message)
    if not best.differs:
        message = "the machines that fit are being replaced"
        return WaitDocument(place=place, reason="starting", message=message)
    message = f"no machine fits: the nearest differs in {', '.join(best.differs)}"
    return WaitDocument(
        place=place,
        reason="unsatisfiable",
        message=message,
        nearest=NearestDocument(dimensions=best.dimensions, differs=tuple(best.differs)),
    )


def _fitting(records: Records, state: MachineState, dimensions: Dimensions) -> list[int | None]:
    """When the machines in a state that fit become free, as far as that is known."""
    return [
        machine.ends
        for machine in records.machines[state].values()
        if matches(dimensions, machine.dimensions)
    ]
