"""Machines whose VMs are gone or are taken back, and the leases that end with them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.clients.datastore.client import Path
from gce_backend.machine_provider.entities import (
    EndReason,
    MachineState,
    Record,
    StoredLease,
    StoredMachine,
    named_lease_path,
)

PREEMPTION_SECONDS = 30
"""Seconds that Compute Engine gives a VM to shut down before it takes it back."""
TAKES_BACK = (
    "Compute Engine takes the VM back (preemption): "
    f"it stops within {PREEMPTION_SECONDS} s, and the lease ends then."
)
TAKEN_BACK = "Compute Engine took the VM back (preemption)."
MAX_MESSAGE = 1000
"""Characters of the reason for the end of a lease."""


def lost_at(machine: StoredMachine) -> float | None:
    """From when on a machine's VM is of no use, in Unix seconds; None while it may be."""
    if machine.gone:
        return float("-inf")
    begun = machine.preempted_ts
    return None if begun is None else float(begun + PREEMPTION_SECONDS)


def trouble_of(machine: StoredMachine) -> str:
    """What is wrong with a leased machine's VM, as a sentence; "" when nothing is."""
    return machine.trouble if machine.preempted_ts is None else TAKES_BACK


def without_lost(
    found: Mapping[Path, Record], name: str, now: UnixSeconds
) -> dict[Path, Record | None]:
    """A lease and its machines after its end, if the VMs of all of them are lost; else {}.

    Args:
        found: the lease and its machines.
        name: the lease's name.
        now: the present time.
    """
    lease = found.get(named_lease_path(name))
    if not isinstance(lease, StoredLease) or not lease.runs:
        return {}
    machines = [found.get(path) for path in lease.machines]
    lost = [
        machine
        for machine in machines
        if isinstance(machine, StoredMachine)
        and machine.lease == name
        and (end := lost_at(machine)) is not None
        and end <= now
    ]
    if len(lost) < len(machines):
        return {}
    preempted = all(machine.preempted_ts is not None for machine in lost)
    said = [
        f"{machine.hostname}: {TAKEN_BACK if machine.preempted_ts is not None else machine.trouble}"
        for machine in lost
    ]
    ended = msgspec.structs.replace(
        lease,
        reclaimed_ts=int(now),
        ended=EndReason.PREEMPTED if preempted else EndReason.LOST,
        message="; ".join(said)[:MAX_MESSAGE],
    )
    return {
        lease.path: ended,
        **{machine.path: machine.in_state(MachineState.RECLAIMED) for machine in lost},
    }
